-- name: counts
SELECT agent, state, CAST(sum(total) AS BIGINT) AS total FROM tallies GROUP BY agent, state;

-- name: oldest_ready
-- For how long an agent's oldest entry has been ready.
SELECT CAST(:now AS BIGINT) - created_at AS age FROM entries
WHERE agent = :agent AND state = 'ready' ORDER BY place LIMIT 1;

-- name: delivery_of
-- The delivery an event came with, unless it was erased.
SELECT deliveries.channel, deliveries.target, deliveries.headers, deliveries.content_type,
       deliveries.received_at, deliveries.replay_key, deliveries.body
FROM events JOIN deliveries ON deliveries.number = events.delivery
WHERE events.id = :event AND deliveries.body IS NOT NULL;

-- name: forget_unavailable
DELETE FROM unavailable_agents WHERE agent = :agent AND node = :node;

-- name: note_unavailable
INSERT INTO unavailable_agents (agent, node, reason, since)
VALUES (:agent, :node, :reason, :now)
ON CONFLICT (agent, node) DO UPDATE SET reason = excluded.reason, since = excluded.since;
