-- name: finished
-- The entries that finished first, long enough ago, after a given entry; dead ones stay.
SELECT finished_at, place, event / 1048576 AS delivery FROM entries
WHERE finished_at IS NOT NULL AND state <> 'dead'
  AND finished_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
  AND (finished_at, place) > (:finished_at, :place)
ORDER BY finished_at, place
LIMIT :most;

-- name: kept_deliveries
-- The deliveries with entries that are open or dead, or finished too recently.
SELECT DISTINCT event / 1048576 AS delivery FROM entries
WHERE place IN (SELECT place FROM entries_of_deliveries WHERE delivery IN (:deliveries))
  AND (finished_at IS NULL OR state = 'dead'
    OR finished_at >= CAST(:now AS BIGINT) - CAST(:keep AS BIGINT));

-- name: conversations_of_deliveries
-- The conversations of these deliveries' events.
SELECT delivery, conversation FROM received_events WHERE delivery IN (:deliveries);

-- name: free_conversations
-- Lock the free conversations; others are left for the next time.
SELECT id FROM conversations WHERE id IN (:ids) ORDER BY id
/*postgresql FOR UPDATE SKIP LOCKED */;

-- name: purgeable_rejected
-- Rejected deliveries that came long enough ago and have no events.
SELECT number FROM deliveries
WHERE rejection IS NOT NULL AND received_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
  AND NOT EXISTS (SELECT 1 FROM events
                  WHERE number BETWEEN deliveries.number * 1048576
                                   AND deliveries.number * 1048576 + 1048575)
ORDER BY received_at
LIMIT :most;

-- name: remember_digests
-- Store the digests of events to delete, for a time counted from their receipt.
INSERT INTO seen (digest, event, received_at)
SELECT digest, id, received_at FROM received_events WHERE delivery IN (:deliveries)
ON CONFLICT (digest) DO NOTHING;

-- name: remember_rebuilt
-- The same for rebuilt mails, by the key of their callback.
INSERT INTO seen (digest, event, received_at)
SELECT events.rebuilt_key, events.id, received_events.received_at
FROM received_events JOIN events ON events.number = received_events.event
WHERE received_events.delivery IN (:deliveries) AND events.rebuilt_key IS NOT NULL
ON CONFLICT (digest) DO NOTHING;

-- name: replay_keys_of
-- The replay keys that were used, with the events that came with them.
SELECT replay_key, id AS event, received_at FROM received_events
WHERE delivery IN (:deliveries) AND replay_key IS NOT NULL;

-- name: count_of_deliveries
-- How many entries go with these deliveries, by state.
SELECT kind, channel, agent, state, count(*) AS total FROM entries_in_full
WHERE place IN (SELECT place FROM entries_of_deliveries WHERE delivery IN (:deliveries))
GROUP BY kind, channel, agent, state;

-- name: delete_entries_of
-- Delete these deliveries' entries, with their attempts.
DELETE FROM entries
WHERE place IN (SELECT place FROM entries_of_deliveries WHERE delivery IN (:deliveries));

-- name: delete_events_of
-- Delete their events, with replies and authors.
DELETE FROM events
WHERE number IN (SELECT event FROM entries_of_deliveries WHERE delivery IN (:deliveries));

-- name: delete_empty_conversations
-- Delete conversations without events, unless paused. The newest stays, so that its id is never
-- reused.
DELETE FROM conversations
WHERE id IN (:ids) AND paused_at IS NULL AND id < (SELECT max(newest.id) FROM conversations AS newest)
  AND (SELECT place FROM entries_of_conversations AS entries
       WHERE entries.conversation = conversations.id LIMIT 1) IS NULL;

-- name: forget_seen
-- Delete digests past their time: such events may be accepted again.
DELETE FROM seen
WHERE digest IN (SELECT digest FROM seen
                 WHERE received_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
                 ORDER BY received_at LIMIT :most)
RETURNING digest;

-- name: forget_old_notes
-- Delete the notes of dead nodes: live ones repeat theirs every few minutes.
DELETE FROM unavailable_agents WHERE since < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT);

-- name: forget_unavailable
-- A node can load an agent again.
DELETE FROM unavailable_agents WHERE agent = :agent AND node = :node;

-- name: note_unavailable
-- Why a node cannot load an agent.
INSERT INTO unavailable_agents (agent, node, reason, since)
VALUES (:agent, :node, :reason, :now)
ON CONFLICT (agent, node) DO UPDATE SET reason = excluded.reason, since = excluded.since;
