-- name: insert_attempt
-- Insert an attempt; it replaces the record of one that was taken for lost.
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome, error, reply)
VALUES (:entry, :number, :node, CAST(:now AS BIGINT) - CAST(:took AS BIGINT), :now, :outcome, :error, :reply)
ON CONFLICT (entry, number) DO UPDATE
SET node = excluded.node, started_at = excluded.started_at, ended_at = excluded.ended_at,
    outcome = excluded.outcome, error = excluded.error, reply = excluded.reply
WHERE attempts.outcome = 'lost';

-- name: settle
-- Update entries with the same result of an attempt. Failures hold back a queue for a time counted
-- from the first one. The time of beginning is kept if it acted, or may have, so that it is not
-- repeated.
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
-- Insert a reply; a replayed event's new one replaces the old one.
INSERT INTO replies (event, text, route, failed, postable, decided_at)
VALUES (:event, :text, :route, :failed, :postable, :now)
ON CONFLICT (event) DO UPDATE
SET text = excluded.text, route = excluded.route, failed = excluded.failed,
    postable = excluded.postable, decided_at = excluded.decided_at;
