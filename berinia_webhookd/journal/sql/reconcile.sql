-- name: recipients_of
-- The recipients on a channel. The conversations of receipts have a message as party.
SELECT DISTINCT conversations.party
FROM conversations
WHERE conversations.channel = :channel AND conversations.of_group = 0
  AND conversations.sender <> ' everybody' AND conversations.party IS NOT NULL
  AND NOT EXISTS (
      SELECT 1 FROM entries_of_conversations JOIN events
          ON events.number = entries_of_conversations.event
      WHERE entries_of_conversations.conversation = conversations.id AND events.kind <> 'message'
  );

-- name: messages_of
-- A person's messages on a channel, with the body if the raw fields are read from it.
SELECT events.id, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body ELSE NULL END AS form
FROM conversations
JOIN entries_of_conversations ON entries_of_conversations.conversation = conversations.id
JOIN events ON events.number = entries_of_conversations.event
JOIN deliveries ON deliveries.number = events.delivery
WHERE conversations.sender = :sender AND conversations.channel = :channel
  AND events.kind = 'message' AND events.data IS NOT NULL
ORDER BY events.number;

-- name: rebuilt_with
-- The rebuilt events with these keys.
SELECT rebuilt_key AS key, id AS event FROM events
WHERE rebuilt_key IN (:keys) AND rebuilt_key IS NOT NULL
UNION ALL
SELECT digest, event FROM seen WHERE digest IN (:keys);

-- name: keyed_with
-- All events with these keys.
SELECT reconcile_key AS key, id AS event FROM events
WHERE reconcile_key IN (:keys) AND reconcile_key IS NOT NULL
UNION ALL
SELECT digest, event FROM seen WHERE digest IN (:keys);

-- name: keys_between
-- The keys that begin in one of many ways. CROSS JOIN, so that SQLite looks each of them up.
WITH wanted (low, high) AS (VALUES (:low /*postgresql ::BYTEA */, :high /*postgresql ::BYTEA */))
SELECT events.reconcile_key AS key
FROM wanted CROSS JOIN events
WHERE events.reconcile_key >= wanted.low AND events.reconcile_key <= wanted.high
  AND events.reconcile_key IS NOT NULL;

-- name: first_keyed
-- The time of the first event with a key. `+ 0`, so that SQLite reads those alone.
SELECT received_at FROM deliveries
WHERE number = (SELECT min(number + 0) FROM events WHERE reconcile_key IS NOT NULL) / 1048576;
