-- name: insert_attempt
-- What was taken for lost has ended after all.
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome, error, reply)
VALUES (:entry, :number, :node, CAST(:now AS BIGINT) - CAST(:took AS BIGINT), :now, :outcome, :error, :reply)
ON CONFLICT (entry, number) DO UPDATE
SET node = excluded.node, started_at = excluded.started_at, ended_at = excluded.ended_at,
    outcome = excluded.outcome, error = excluded.error, reply = excluded.reply
WHERE attempts.outcome = 'lost';

-- name: settle
-- What becomes of entries of which the same becomes after an attempt. Their failures hold their
-- queues back from the first one on.
-- When it began is kept of what acted, or may have: it is not to be done twice.
UPDATE entries
SET state = :state,
    due_at = CAST(:now AS BIGINT) + CAST(:due_in AS BIGINT),
    hold_until = coalesce(hold_until, CAST(:now AS BIGINT) + CAST(:hold_for AS BIGINT)),
    retries = :retries,
    finished_at = CASE WHEN CAST(:state AS TEXT) IN ('done', 'dead') THEN CAST(:now AS BIGINT) END,
    began_at = CASE WHEN CAST(:acted AS INTEGER) = 1 THEN began_at END,
    lease_until = NULL, lease_holder = NULL, quiet_at = NULL
WHERE place IN (:places);

-- name: insert_reply
-- A replayed event's new reply takes the place of the old one.
INSERT INTO replies (event, text, route, failed, postable, decided_at)
VALUES (:event, :text, :route, :failed, :postable, :now)
ON CONFLICT (event) DO UPDATE
SET text = excluded.text, route = excluded.route, failed = excluded.failed,
    postable = excluded.postable, decided_at = excluded.decided_at;
