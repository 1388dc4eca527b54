-- name: schema_version
-- The version of the schema, and the oldest program that may use it.
SELECT version, oldest_program FROM schema;

-- name: present
-- The instant of this transaction.
SELECT CAST(:now AS BIGINT) AS now;

-- name: write_probe
-- Written and deleted again to prove that there is room: a full disk may still take what only
-- changes a row.
INSERT INTO deliveries
    (number, id, channel, target, content_type, node, received_at, state, body)
VALUES (:number, '', '', '', '', '', 0, 'probe', :body);

-- name: delete_probe
-- Delete the probe.
DELETE FROM deliveries WHERE number = :number AND state = 'probe';

-- name: count_entries
-- Add to the count of a state.
INSERT INTO tallies (kind, channel, agent, state, shard, total)
VALUES (:kind, :channel, :agent, :state, :shard, :change)
ON CONFLICT (kind, channel, agent, state, shard)
DO UPDATE SET total = tallies.total + excluded.total;
