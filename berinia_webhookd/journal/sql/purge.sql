-- name: finished
-- What finished first, long enough ago, behind an entry that was looked at; what is dead stays.
SELECT finished_at, place, event / 1048576 AS delivery FROM entries
WHERE finished_at IS NOT NULL AND state <> 'dead'
  AND finished_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
  AND (finished_at, place) > (:finished_at, :place)
ORDER BY finished_at, place
LIMIT :most;

-- name: kept_deliveries
-- Those of which something is open or dead, or finished not long enough ago.
SELECT DISTINCT event / 1048576 AS delivery FROM entries
WHERE place IN (SELECT place FROM entries_of_deliveries WHERE delivery IN (:deliveries))
  AND (finished_at IS NULL OR state = 'dead'
    OR finished_at >= CAST(:now AS BIGINT) - CAST(:keep AS BIGINT));

-- name: conversations_of_deliveries
-- In which conversations these deliveries have events.
SELECT delivery, conversation FROM received_events WHERE delivery IN (:deliveries);

-- name: free_conversations
-- Those that nobody is changing; the others are left for the next time.
SELECT id FROM conversations WHERE id IN (:ids) ORDER BY id
/*postgresql FOR UPDATE SKIP LOCKED */;

-- name: purgeable_rejected
-- What came long enough ago and never became an event.
SELECT number FROM deliveries
WHERE rejection IS NOT NULL AND received_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
  AND NOT EXISTS (SELECT 1 FROM events
                  WHERE number BETWEEN deliveries.number * 1048576
                                   AND deliveries.number * 1048576 + 1048575)
ORDER BY received_at
LIMIT :most;

-- name: remember_digests
-- Events that are about to go are recognised for longer; counted from their receipt.
INSERT INTO seen (digest, event, received_at)
SELECT digest, id, received_at FROM received_events WHERE delivery IN (:deliveries)
ON CONFLICT (digest) DO NOTHING;

-- name: remember_rebuilt
-- The same for what reconciliation took in, by what its callback has.
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
-- Their attempts go with them.
DELETE FROM entries
WHERE place IN (SELECT place FROM entries_of_deliveries WHERE delivery IN (:deliveries));

-- name: delete_events_of
-- Their replies go with them.
DELETE FROM events
WHERE number IN (SELECT event FROM entries_of_deliveries WHERE delivery IN (:deliveries));

-- name: delete_empty_conversations
-- A conversation goes with its last event, unless it is paused. The newest stays, so that its id is
-- never given to another.
DELETE FROM conversations
WHERE id IN (:ids) AND paused_at IS NULL AND id < (SELECT max(newest.id) FROM conversations AS newest)
  AND (SELECT place FROM entries_of_conversations AS entries
       WHERE entries.conversation = conversations.id LIMIT 1) IS NULL;

-- name: forget_seen
-- What was received so long ago may come again.
DELETE FROM seen
WHERE digest IN (SELECT digest FROM seen
                 WHERE received_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
                 ORDER BY received_at LIMIT :most)
RETURNING digest;

-- name: forget_old_notes
-- Nodes repeat theirs every few minutes at most: the others are those of nodes that are gone.
DELETE FROM unavailable_agents WHERE since < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT);

-- name: forget_unavailable
-- A node can load an agent again.
DELETE FROM unavailable_agents WHERE agent = :agent AND node = :node;

-- name: note_unavailable
-- Why a node cannot load an agent.
INSERT INTO unavailable_agents (agent, node, reason, since)
VALUES (:agent, :node, :reason, :now)
ON CONFLICT (agent, node) DO UPDATE SET reason = excluded.reason, since = excluded.since;
