-- name: find_conversations
-- CROSS JOIN, so that SQLite looks each of them up.
WITH wanted (channel, sender, party) AS (VALUES (:channel, :sender, :party))
SELECT conversations.id, conversations.channel, conversations.sender, conversations.party,
       CASE WHEN conversations.paused_at IS NULL THEN 0 ELSE 1 END AS paused
FROM wanted CROSS JOIN conversations
WHERE conversations.channel = wanted.channel AND conversations.sender = wanted.sender
  AND conversations.party = wanted.party;

-- name: make_conversations
-- Another node may insert the same one meanwhile: this waits for it, and it is locked afterwards. They
-- are inserted in one order on every node, to prevent deadlocks. A new one is paused while its party
-- is paused for everybody.
WITH wanted (id, channel, sender, party, of_group) AS (
    VALUES (/*postgresql nextval('numbers') *//*sqlite :id */, :channel, :sender, :party,
            CAST(:of_group AS INTEGER))
)
INSERT INTO conversations
    (id, channel, sender, party, of_group, paused_at, paused_until, paused_by, paused_for)
SELECT wanted.id, wanted.channel, wanted.sender, wanted.party, wanted.of_group,
       everybody.paused_at, everybody.paused_until, everybody.paused_by, everybody.paused_for
FROM wanted
LEFT JOIN conversations AS everybody
  ON everybody.sender = ' everybody' AND everybody.channel = wanted.channel
  AND everybody.party = wanted.party
WHERE 1 = 1
ORDER BY wanted.channel, wanted.sender, wanted.party
ON CONFLICT (channel, sender, party) DO NOTHING
RETURNING id, channel, sender, party, CASE WHEN paused_at IS NULL THEN 0 ELSE 1 END AS paused;

-- name: make_unpaused_conversations
-- The same at less cost, for a single writer and no party that is paused for everybody.
INSERT INTO conversations (id, channel, sender, party, of_group)
VALUES (:id, :channel, :sender, :party, :of_group);

-- name: used_keys
-- The events that came with these replay keys, of which `seen` has the digests.
SELECT replay_key AS key, delivery, id AS event FROM received_events
WHERE replay_key IN (:keys) AND replay_key IS NOT NULL AND state = 'accepted'
UNION ALL
SELECT digest, 0, event FROM seen WHERE digest IN (:digests);

-- name: insert_delivery
-- One request. On PostgreSQL rows are inserted and returned in the order of the given ones.
INSERT INTO deliveries
    (number, id, channel, target, headers, content_type, node, received_at, state, rejection,
     replay_key, once_key, body)
VALUES
    (/*postgresql nextval('numbers') *//*sqlite :number */, :id, :channel, :target, :headers,
     :content_type, :node, :received_at, :state, :rejection, :replay_key, :once_key, :body)
/*postgresql RETURNING number */;

-- name: insert_event
-- Events whose digest exists already are not inserted; the inserted ones are counted.
INSERT INTO events
    (number, id, delivery, place, kind, conversation, digest, opt_out, skipped, about, rank,
     reconcile_key, rebuilt_key, raw_in_body, data)
VALUES
    (:number, :id, :delivery, :place, :kind, :conversation, :digest, :opt_out, :skipped, :about,
     :rank, :reconcile_key, :rebuilt_key, :raw_in_body, :data)
ON CONFLICT (digest) DO NOTHING
/*postgresql RETURNING 1 */;

-- name: insert_author
-- Another author of a mail.
INSERT INTO authors (event, address) VALUES (:event, :address);

-- name: events_with
-- The events with these digests.
SELECT digest, id AS event FROM events WHERE digest IN (:digests);

-- name: already_seen
-- The deleted events that had these digests. Selected after inserting, which waits for a purge that
-- moves one into `seen` meanwhile.
SELECT digest, event FROM seen WHERE digest IN (:digests);

-- name: mark_start
-- Mark events as START, because their sender had opted out.
UPDATE events SET opt_out = 'START', skipped = :skipped, data = :data WHERE number = :number;

-- name: ranks
-- The ranks of these messages' receipts, ascending.
SELECT number, about, rank FROM events
WHERE about IN (:abouts) AND about IS NOT NULL AND rank IS NOT NULL ORDER BY rank;

-- name: mark_outranked
-- Mark receipts with a lower rank than an earlier one.
UPDATE events SET skipped = 'outranked' WHERE number IN (:numbers);

-- name: delete_events
-- Delete inserted events that are known already.
DELETE FROM events WHERE number IN (:numbers);

-- name: delete_deliveries
-- Delete the deliveries of which nothing is kept then.
DELETE FROM deliveries WHERE number IN (:numbers);

-- name: insert_entry
-- One event for one agent, or a late reply. A skipped one has ended already.
INSERT INTO entries
    (place, event, kind, agent, conversation, opt_out, state, startable_at, attempts, retries,
     losses, loop_key, quiet_at, gather_by, waiting_until, created_at, finished_at)
VALUES
    (:place, :event, :kind, :agent, :conversation, :opt_out, :state, :startable_at, 0, 0, 0,
     :loop_key,
     CAST(:now AS BIGINT) + CAST(:quiet AS BIGINT), CAST(:now AS BIGINT) + CAST(:gather AS BIGINT),
     CAST(:now AS BIGINT) + CAST(:wait AS BIGINT), :now,
     CASE WHEN CAST(:state AS TEXT) = 'skipped' THEN CAST(:now AS BIGINT) END);

-- name: remember
-- A digest that outlives its event, or a used replay key.
INSERT INTO seen (digest, event, received_at)
VALUES (:digest, :event, :received_at)
ON CONFLICT (digest) DO NOTHING;

-- name: agents_of_events
-- The agents these events went to the first time, or why they were skipped.
SELECT events.id AS event, entries.agent,
       CASE WHEN entries.state = 'skipped' THEN events.skipped END AS skipped
FROM events JOIN entries ON entries.place = events.place
WHERE events.id IN (:events);

-- name: wait_with
-- Extend the wait for an event's reply for one more caller.
UPDATE entries SET waiting_until = CAST(:now AS BIGINT) + :wait
WHERE place = (SELECT place FROM events WHERE id = :event) AND finished_at IS NULL
  AND (waiting_until IS NULL OR waiting_until < CAST(:now AS BIGINT) + :wait);
