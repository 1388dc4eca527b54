-- name: works_again
-- Reset agents' failures.
UPDATE agents SET failures = 0, tries = 0, failed_at = NULL WHERE agent IN (:agents);

-- name: note_attempts
-- Add failed attempts, and costs of the current day.
INSERT INTO agents (agent, failures, tries, failed_at, day, cost)
VALUES (:agent, :failures, 0, CAST(:now AS BIGINT), CAST(:now AS BIGINT) / 86400000000, :cost)
ON CONFLICT (agent) DO UPDATE
SET failures = agents.failures + excluded.failures,
    failed_at = CASE WHEN excluded.failures > 0 THEN excluded.failed_at ELSE agents.failed_at END,
    cost = CASE WHEN agents.day = excluded.day THEN agents.cost ELSE 0 END + excluded.cost,
    day = excluded.day
RETURNING agent, failures;

-- name: startable_opt_outs
-- The opt-outs that may start of an agent that a guard holds.
SELECT place, state, kind, agent, conversation, quiet_at, gather_by, 0 AS size_bytes,
       0 AS doubtful
FROM entries
WHERE kind = 'agent' AND agent = :agent AND opt_out = 1 AND startable_at IS NOT NULL
  AND startable_at <= :now
ORDER BY startable_at, place LIMIT :most
/*postgresql FOR UPDATE SKIP LOCKED */;

-- name: begin_try
-- Start a try of one entry of a failing agent, unless one is running, or another node was faster.
UPDATE agents SET tries = tries + 1
WHERE agent IN (SELECT agent FROM agents WHERE agent = :agent AND tries = :tries
                /*postgresql FOR UPDATE SKIP LOCKED */)
  AND NOT EXISTS (SELECT 1 FROM entries
                  WHERE entries.state = 'running' AND entries.gathered_into IS NULL
                    AND entries.kind = 'agent' AND entries.agent = :agent)
RETURNING agent;

-- name: note_spent
-- Note that an agent's budget holds entries; reported once a day.
UPDATE agents SET spent_on = CAST(:now AS BIGINT) / 86400000000
WHERE agent IN (SELECT agent FROM agents
                WHERE agent = :agent
                  AND (spent_on IS NULL OR spent_on < CAST(:now AS BIGINT) / 86400000000)
                /*postgresql FOR UPDATE SKIP LOCKED */)
RETURNING agent;

-- name: held_agents
-- The agents held by a guard, with the reasons.
SELECT agent, failures, cost,
       CASE WHEN spent_on = CAST(:now AS BIGINT) / 86400000000 THEN 1 ELSE 0 END AS spent
FROM agents
WHERE failures >= :most_failures OR spent_on = CAST(:now AS BIGINT) / 86400000000
ORDER BY agent;

-- name: unspent
-- The budget was raised or removed since it was spent: end the hold.
UPDATE agents SET spent_on = NULL
WHERE agent IN (SELECT agent FROM agents WHERE agent = :agent /*postgresql FOR UPDATE SKIP LOCKED */);

-- name: agents_with_costs
-- The agents whose results had a cost.
SELECT agent FROM agents WHERE cost > 0 ORDER BY agent;

-- name: doubtful
-- Of these entries, those that came since the guards of their conversation begin to count.
SELECT entries.place, entries.conversation, entries.loop_key, entries.created_at,
       coalesce(conversations.guards_from, 0) AS since
FROM entries JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (:places) AND entries.created_at > coalesce(conversations.guards_from, 0);

-- name: last_turns
-- What came before an entry in its conversation, and when it was answered. Where callers wait, what
-- has no reply was not; elsewhere nobody knows, and it was.
SELECT loop_key, created_at,
       CASE WHEN state = 'done' AND (waiting_until IS NULL
                 OR EXISTS (SELECT 1 FROM replies WHERE replies.event = recent.event))
            THEN started_at END AS started_at, finished_at
FROM (SELECT place, event, loop_key, created_at, started_at, finished_at, waiting_until, state
      FROM entries
      WHERE conversation = :conversation AND kind = 'agent' AND loop_key IS NOT NULL
        AND (startable_at IS NULL) IS TRUE AND place < :place
      ORDER BY place DESC LIMIT 50) AS recent
WHERE created_at > :since
ORDER BY place;

-- name: over_budget
-- Of these entries, with whose person an agent ran so often within the time: and in how long the
-- first of those runs is long enough ago.
SELECT entries.place, conversations.sender,
       (SELECT runs.started_at FROM runs
        WHERE runs.sender = conversations.sender AND runs.agent = entries.agent
          AND runs.started_at > CAST(:now AS BIGINT) - :span
          AND runs.started_at > coalesce(conversations.guards_from, 0)
        ORDER BY runs.started_at DESC LIMIT 1 OFFSET :before)
       + CAST(:span AS BIGINT) - CAST(:now AS BIGINT) AS frees_in
FROM entries JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (:places) AND entries.opt_out = 0
ORDER BY entries.place;

-- name: free_people
-- Of these entries, those for whose person no other node is counting runs of their agent; until the
-- commit, this one alone does.
SELECT entries.place
FROM entries JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (:places)
/*postgresql AND CASE WHEN entries.opt_out = 1 OR conversations.sender IS NULL THEN TRUE
                 ELSE pg_try_advisory_xact_lock(hashtext(entries.agent),
                                                hashtext(conversations.sender)) END */;

-- name: note_runs
-- Insert the runs of agents that have a budget for each person.
INSERT INTO runs (sender, agent, started_at, entry)
SELECT conversations.sender, entries.agent, CAST(:now AS BIGINT), entries.place
FROM entries JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (:places) AND conversations.sender IS NOT NULL;

-- name: forget_runs
-- Delete the runs of entries that were given back.
DELETE FROM runs
WHERE (sender, agent, started_at, entry) IN (
    SELECT conversations.sender, entries.agent, entries.started_at, entries.place
    FROM entries JOIN conversations ON conversations.id = entries.conversation
    WHERE entries.place IN (:places));

-- name: forget_old_runs
-- Delete runs older than any budget's period.
DELETE FROM runs WHERE started_at < CAST(:now AS BIGINT) - CAST(:keep AS BIGINT);

-- name: erase_runs
-- Delete the runs for erased people.
DELETE FROM runs
WHERE sender IN (SELECT sender FROM conversations WHERE id IN (:conversations));

-- name: count_anew
-- Let guards ignore everything before now in these conversations.
UPDATE conversations SET guards_from = :now WHERE id IN (:conversations);

-- name: held_for_agent
-- How many conversations wait for an agent that is held as a whole, and for how long.
SELECT count(*) AS total, CAST(:now AS BIGINT) - min(created_at) AS age FROM entries
WHERE kind = 'agent' AND agent = :agent AND startable_at IS NOT NULL AND opt_out = 0
  AND held IS NULL;
