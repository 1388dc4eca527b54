-- name: insert_attempt
-- What was taken for lost has ended after all.
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome, error, reply)
VALUES (:entry, :number, :node, CAST(:now AS BIGINT) - CAST(:took AS BIGINT), :now, :outcome, :error, :reply)
ON CONFLICT (entry, number) DO UPDATE
SET node = excluded.node, started_at = excluded.started_at, ended_at = excluded.ended_at,
    outcome = excluded.outcome, error = excluded.error, reply = excluded.reply
WHERE attempts.outcome = 'lost';

-- name: settle
-- What becomes of an entry after an attempt. Its failures hold its queue back from the first one on.
-- When it began is kept of what acted, or may have: it is not to be done twice.
WITH outcome (place, state, due_in, hold_for, retries, acted) AS (
    VALUES (CAST(:place AS BIGINT), CAST(:state AS TEXT), CAST(:due_in AS BIGINT),
            CAST(:hold_for AS BIGINT), CAST(:retries AS INTEGER), CAST(:acted AS INTEGER))
)
UPDATE entries
SET state = outcome.state,
    due_at = CAST(:now AS BIGINT) + outcome.due_in,
    hold_until = coalesce(entries.hold_until, CAST(:now AS BIGINT) + outcome.hold_for),
    retries = outcome.retries,
    finished_at = CASE WHEN outcome.state IN ('done', 'dead') THEN CAST(:now AS BIGINT) END,
    began_at = CASE WHEN outcome.acted = 1 THEN entries.began_at END,
    lease_until = NULL, lease_holder = NULL, quiet_at = NULL
FROM outcome
WHERE entries.place = outcome.place;

-- name: insert_reply
-- A replayed event's new reply takes the place of the old one.
INSERT INTO replies (event, text, route, failed, postable, decided_at)
VALUES (:event, :text, :route, :failed, :postable, :now)
ON CONFLICT (event) DO UPDATE
SET text = excluded.text, route = excluded.route, failed = excluded.failed,
    postable = excluded.postable, decided_at = excluded.decided_at;
