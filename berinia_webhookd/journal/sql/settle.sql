-- name: insert_attempt
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome, error, reply)
VALUES (:entry, :number, :node, CAST(:now AS BIGINT) - CAST(:took AS BIGINT), :now, :outcome, :error, :reply);

-- name: settle
-- What becomes of an entry after an attempt. Its failures hold its queue back from the first one on.
WITH outcome (place, state, due_in, hold_for, retries) AS (
    VALUES (CAST(:place AS BIGINT), CAST(:state AS TEXT), CAST(:due_in AS BIGINT),
            CAST(:hold_for AS BIGINT), CAST(:retries AS INTEGER))
)
UPDATE entries
SET state = outcome.state,
    due_at = CAST(:now AS BIGINT) + outcome.due_in,
    hold_until = coalesce(entries.hold_until, CAST(:now AS BIGINT) + outcome.hold_for),
    retries = outcome.retries,
    finished_at = CASE WHEN outcome.state IN ('done', 'dead') THEN CAST(:now AS BIGINT) END,
    lease_until = NULL, lease_holder = NULL
FROM outcome
WHERE entries.place = outcome.place;

-- name: insert_reply
-- A replayed event's new reply takes the place of the old one.
INSERT INTO replies (event, text, route, failed, postable, decided_at)
VALUES (:event, :text, :route, :failed, :postable, :now)
ON CONFLICT (event) DO UPDATE
SET text = excluded.text, route = excluded.route, failed = excluded.failed,
    postable = excluded.postable, decided_at = excluded.decided_at;
