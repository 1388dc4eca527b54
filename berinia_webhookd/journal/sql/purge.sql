-- name: finished
-- What finished first, long enough ago, behind an entry that was looked at; what is dead stays.
SELECT finished_at, place,
       (SELECT delivery FROM events WHERE number = entries.event) AS delivery
FROM entries
WHERE finished_at IS NOT NULL AND state <> 'dead'
  AND finished_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
  AND (finished_at, place) > (:finished_at, :place)
ORDER BY finished_at, place
LIMIT :most;

-- name: kept_deliveries
-- Those of which something is open or dead, or finished not long enough ago.
SELECT DISTINCT events.delivery FROM events JOIN entries ON entries.event = events.number
WHERE events.delivery IN (:deliveries)
  AND (entries.finished_at IS NULL OR entries.state = 'dead'
    OR entries.finished_at >= CAST(:now AS BIGINT) - CAST(:keep AS BIGINT));

-- name: conversations_of_deliveries
-- In which conversations these deliveries have events.
SELECT delivery, conversation FROM events WHERE delivery IN (:deliveries);

-- name: free_conversations
-- Those that nobody is changing; the others are left for the next time.
SELECT id FROM conversations WHERE id IN (:ids) ORDER BY id
/*postgresql FOR UPDATE SKIP LOCKED */;

-- name: purgeable_rejected
-- What came long enough ago and never became an event.
SELECT number FROM deliveries
WHERE rejection IS NOT NULL AND received_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT)
  AND NOT EXISTS (SELECT 1 FROM events WHERE events.delivery = deliveries.number)
ORDER BY received_at
LIMIT :most;

-- name: remember_digests
-- Events that are about to go are recognised for longer; counted from their receipt.
INSERT INTO seen (digest, event, received_at)
SELECT events.digest, events.id, deliveries.received_at
FROM events JOIN deliveries ON deliveries.number = events.delivery
WHERE events.delivery IN (:deliveries)
ON CONFLICT (digest) DO NOTHING;

-- name: replay_keys_of
-- The replay keys that were used, with the events that came with them.
SELECT deliveries.replay_key, events.id AS event, deliveries.received_at
FROM deliveries JOIN events ON events.delivery = deliveries.number
WHERE deliveries.number IN (:deliveries) AND deliveries.replay_key IS NOT NULL;

-- name: entries_of_deliveries
-- How many entries go with these deliveries, by state.
SELECT entries.kind, deliveries.channel, entries.agent, entries.state, count(*) AS total
FROM deliveries
JOIN events ON events.delivery = deliveries.number
JOIN entries ON entries.event = events.number
WHERE deliveries.number IN (:deliveries)
GROUP BY entries.kind, deliveries.channel, entries.agent, entries.state;

-- name: delete_empty_conversations
-- A conversation goes with its last event, unless it is paused. The newest stays, so that its id is
-- never given to another.
DELETE FROM conversations
WHERE id IN (:ids) AND paused_at IS NULL AND id < (SELECT max(newest.id) FROM conversations AS newest)
  AND NOT EXISTS (SELECT 1 FROM events WHERE events.conversation = conversations.id);

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
DELETE FROM unavailable_agents WHERE agent = :agent AND node = :node;

-- name: note_unavailable
INSERT INTO unavailable_agents (agent, node, reason, since)
VALUES (:agent, :node, :reason, :now)
ON CONFLICT (agent, node) DO UPDATE SET reason = excluded.reason, since = excluded.since;
