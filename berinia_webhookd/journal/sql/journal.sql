-- name: schema_version
-- What made this journal, and who may use it.
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
-- Nothing of a probe is kept.
DELETE FROM deliveries WHERE number = :number AND state = 'probe';

-- name: count_entries
-- So many entries came into a state, or left it.
INSERT INTO tallies (kind, channel, agent, state, shard, total)
VALUES (:kind, :channel, :agent, :state, :shard, :change)
ON CONFLICT (kind, channel, agent, state, shard)
DO UPDATE SET total = tallies.total + excluded.total;
