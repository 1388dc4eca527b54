-- name: failing
-- Which of these agents failed on their last attempts, and on how many.
SELECT agent, failures FROM agents WHERE agent IN (:agents) AND failures > 0;

-- name: works_again
UPDATE agents SET failures = 0, tries = 0, failed_at = NULL WHERE agent IN (:agents);

-- name: note_attempts
-- So many more attempts failed, and so much more was spent on the day that it is.
INSERT INTO agents (agent, failures, tries, failed_at, day, cost)
VALUES (:agent, :failures, 0, CAST(:now AS BIGINT), CAST(:now AS BIGINT) / 86400000000, :cost)
ON CONFLICT (agent) DO UPDATE
SET failures = agents.failures + excluded.failures,
    failed_at = CASE WHEN excluded.failures > 0 THEN excluded.failed_at ELSE agents.failed_at END,
    cost = CASE WHEN agents.day = excluded.day THEN agents.cost ELSE 0 END + excluded.cost,
    day = excluded.day
RETURNING agent, failures;

-- name: startable_opt_outs
-- What may start of an agent that a guard holds.
SELECT place, state, kind, agent, conversation, quiet_at, gather_by FROM entries
WHERE kind = 'agent' AND agent = :agent AND opt_out = 1 AND startable_at IS NOT NULL
  AND startable_at <= :now
ORDER BY startable_at, place LIMIT :most
/*postgresql FOR UPDATE SKIP LOCKED */;

-- name: begin_try
-- One entry of an agent that fails may be tried, unless something of it is under way, or another
-- node was faster.
UPDATE agents SET tries = tries + 1
WHERE agent IN (SELECT agent FROM agents WHERE agent = :agent AND tries = :tries
                /*postgresql FOR UPDATE SKIP LOCKED */)
  AND NOT EXISTS (SELECT 1 FROM entries
                  WHERE entries.state = 'running' AND entries.gathered_into IS NULL
                    AND entries.kind = 'agent' AND entries.agent = :agent)
RETURNING agent;

-- name: note_spent
-- Its budget holds something back; told once a day.
UPDATE agents SET spent_on = CAST(:now AS BIGINT) / 86400000000
WHERE agent IN (SELECT agent FROM agents
                WHERE agent = :agent
                  AND (spent_on IS NULL OR spent_on < CAST(:now AS BIGINT) / 86400000000)
                /*postgresql FOR UPDATE SKIP LOCKED */)
RETURNING agent;

-- name: held_agents
-- Which agents are held by a guard of theirs, and for what.
SELECT agent, failures, cost,
       CASE WHEN spent_on = CAST(:now AS BIGINT) / 86400000000 THEN 1 ELSE 0 END AS spent
FROM agents
WHERE failures >= :most_failures OR spent_on = CAST(:now AS BIGINT) / 86400000000
ORDER BY agent;
