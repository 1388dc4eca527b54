-- name: conversations_of_sender
-- In which conversations a person wrote.
SELECT id FROM conversations WHERE sender = :sender ORDER BY id;

-- name: conversations_of_author
-- In which conversations there are events that a person is an author of.
SELECT DISTINCT events.conversation FROM authors JOIN events ON events.number = authors.event
WHERE authors.address = :sender ORDER BY 1;

-- name: count_with_data
-- How many events of a person still have their data.
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

-- name: entries_to_erase
-- Their entries, as they are before.
SELECT place, kind, channel, agent, conversation, state FROM entries_in_full
WHERE place IN (SELECT place FROM entries_of_events WHERE event IN (:events));

-- name: erase_events
-- The digest stays: the same event is recognised when it comes again.
UPDATE events SET data = NULL, opt_out = NULL, skipped = NULL, about = NULL WHERE number IN (:events);

-- name: erase_entries
-- Entries of erased events have ended, whatever they waited for.
UPDATE entries
SET state = 'erased', startable_at = NULL, due_at = NULL, hold_until = NULL, held = NULL,
    loop_key = NULL, finished_at = coalesce(finished_at, :now), quiet_at = NULL, gathered_into = NULL
WHERE place IN (:places);

-- name: erase_attempts
-- What went wrong and what was said may name a person.
UPDATE attempts SET error = NULL, reply = NULL WHERE entry IN (:places);

-- name: erase_authors
-- Who else it was from.
DELETE FROM authors WHERE event IN (:events);

-- name: erase_replies
-- So may what was said to whoever asked.
DELETE FROM replies WHERE event IN (:events);

-- name: erase_parties
-- Once nothing of a conversation is left, nobody knows whose it was.
UPDATE conversations
SET sender = NULL, party = NULL,
    paused_at = NULL, paused_until = NULL, paused_by = NULL, paused_for = NULL
WHERE id IN (:conversations)
  AND (SELECT events.number FROM entries_of_conversations AS entries
       JOIN events ON events.number = entries.event
       WHERE entries.conversation = conversations.id AND events.data IS NOT NULL LIMIT 1) IS NULL;

-- name: deliveries_to_erase
-- The body is needed only for its rejected items. Nobody else changes them meanwhile.
SELECT number, target, headers, rejection,
       CASE WHEN rejection IS NOT NULL THEN body END AS body,
       EXISTS (SELECT 1 FROM events
               WHERE number BETWEEN deliveries.number * 1048576
                                AND deliveries.number * 1048576 + 1048575
                 AND data IS NOT NULL) AS shared
FROM deliveries WHERE number IN (:deliveries) ORDER BY number
/*postgresql FOR NO KEY UPDATE */;

-- name: erase_delivery
-- What is given is what does not concern the person.
UPDATE deliveries
SET body = NULL, target = :target, headers = :headers, rejection = :rejection
WHERE number = :number;

-- name: delete_rejected
-- A rejected delivery goes when nothing is left of it that could be replayed.
DELETE FROM deliveries
WHERE number IN (:numbers) AND state = 'rejected' AND rejection IS NULL;

-- name: rejected_bodies
-- What could not be read, in the order of ids.
SELECT id, number, rejection, body FROM deliveries
WHERE rejection IS NOT NULL AND id > :after ORDER BY id LIMIT :most;
