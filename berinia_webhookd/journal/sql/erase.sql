-- name: conversations_of_sender
-- The conversations of a person's messages.
SELECT id FROM conversations WHERE sender = :sender ORDER BY id;

-- name: conversations_of_author
-- The conversations with events that a person is an author of.
SELECT DISTINCT events.conversation FROM authors JOIN events ON events.number = authors.event
WHERE authors.address = :sender ORDER BY 1;

-- name: count_with_data
-- The number of events of a person that have their data.
SELECT count(*) AS total FROM events
WHERE number IN (SELECT event FROM entries_of_conversations
                 WHERE conversation IN (:conversations)
                 UNION ALL SELECT event FROM authors WHERE address = :sender)
  AND data IS NOT NULL;

-- name: running_events
-- Events with an attempt under way, which needs their data.
SELECT DISTINCT events.id FROM entries JOIN events ON events.number = entries.event
WHERE entries.place IN (SELECT place FROM entries_of_conversations
                        WHERE conversation IN (:conversations)
                        UNION ALL SELECT entries_of_events.place
                        FROM authors JOIN entries_of_events ON entries_of_events.event = authors.event
                        WHERE authors.address = :sender)
  AND entries.state = 'running' AND events.data IS NOT NULL;

-- name: erasable_events
-- The next events to erase: those with no attempt under way.
SELECT number, delivery FROM events
WHERE number IN (SELECT event FROM entries_of_conversations
                 WHERE conversation IN (:conversations)
                 UNION ALL SELECT event FROM authors WHERE address = :sender)
  AND conversation IN (:held) AND data IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM entries WHERE place = events.place AND state = 'running')
  AND NOT EXISTS (SELECT 1 FROM entries
                  WHERE event = events.number AND (kind = 'reply') IS TRUE AND state = 'running')
ORDER BY number LIMIT :most;

-- name: erase_events
-- Blank events. The digest stays, so that a repeated event is recognised.
UPDATE events SET data = NULL, opt_out = NULL, skipped = NULL, about = NULL WHERE number IN (:events);

-- name: erase_entries
-- End the entries of erased events.
UPDATE entries
SET state = 'erased', startable_at = NULL, due_at = NULL, hold_until = NULL, held = NULL,
    loop_key = NULL, finished_at = coalesce(finished_at, :now), quiet_at = NULL, gathered_into = NULL
WHERE place IN (:places);

-- name: erase_attempts
-- Blank attempts, whose errors and replies may contain personal data.
UPDATE attempts SET error = NULL, reply = NULL WHERE entry IN (:places);

-- name: erase_authors
-- Delete the authors of erased events.
DELETE FROM authors WHERE event IN (:events);

-- name: erase_replies
-- Delete replies, which may contain personal data.
DELETE FROM replies WHERE event IN (:events);

-- name: erase_parties
-- Blank the parties of conversations without data.
UPDATE conversations
SET sender = NULL, party = NULL,
    paused_at = NULL, paused_until = NULL, paused_by = NULL, paused_for = NULL
WHERE id IN (:conversations)
  AND (SELECT events.number FROM entries_of_conversations AS entries
       JOIN events ON events.number = entries.event
       WHERE entries.conversation = conversations.id AND events.data IS NOT NULL LIMIT 1) IS NULL;

-- name: deliveries_to_erase
-- The deliveries to erase, locked; with the body if there are rejected items, which need it.
SELECT number, target, headers, rejection,
       CASE WHEN rejection IS NOT NULL THEN body END AS body,
       EXISTS (SELECT 1 FROM events
               WHERE number BETWEEN deliveries.number * 1048576
                                AND deliveries.number * 1048576 + 1048575
                 AND data IS NOT NULL) AS shared
FROM deliveries WHERE number IN (:deliveries) ORDER BY number
/*postgresql FOR NO KEY UPDATE */;

-- name: erase_delivery
-- Blank a delivery, except for the given parts that do not concern the person.
UPDATE deliveries
SET body = NULL, target = :target, headers = :headers, rejection = :rejection
WHERE number = :number;

-- name: delete_rejected
-- Delete rejected deliveries of which nothing is left to replay.
DELETE FROM deliveries
WHERE number IN (:numbers) AND state = 'rejected' AND rejection IS NULL;

-- name: rejected_bodies
-- The rejected deliveries, in the order of ids.
SELECT id, number, rejection, body FROM deliveries
WHERE rejection IS NOT NULL AND id > :after ORDER BY id LIMIT :most;
