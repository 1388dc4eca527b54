-- name: burst
-- The entries of a burst: the ready entries of a queue that gather, before any that they must not
-- overtake, with the size of each.
SELECT entries.place,
       length(events.data) + CASE WHEN events.raw_in_body = 1 THEN length(deliveries.body) ELSE 0 END
       AS size_bytes
FROM entries
JOIN events ON events.number = entries.event
JOIN deliveries ON deliveries.number = events.delivery
WHERE entries.place IN (
    SELECT CAST(:head AS BIGINT)
    UNION ALL
    SELECT place FROM (
        SELECT place, quiet_at FROM entries
        WHERE conversation = :conversation AND kind = :kind AND agent = :agent
          AND state = 'ready' AND startable_at IS NULL AND place > :head
          AND place < coalesce((SELECT min(later.place) FROM entries AS later
                                WHERE later.conversation = :conversation AND later.kind = :kind
                                  AND later.agent = :agent AND later.state = 'waiting'
                                  AND later.hold_until > :now AND later.place > :head), 9223372036854775807)
          AND place < coalesce((SELECT min(later.place) FROM entries AS later
                                WHERE later.conversation = :conversation AND later.kind = :kind
                                  AND later.agent = :agent AND later.state = 'ready'
                                  AND later.startable_at IS NULL AND later.opt_out = 1
                                  AND later.place > :head), 9223372036854775807)
          AND place < coalesce((SELECT min(later.place) FROM entries AS later
                                WHERE later.conversation = :conversation AND later.kind = :kind
                                  AND later.agent = :agent AND later.held IS NOT NULL
                                  AND later.place > :head), 9223372036854775807)
        ORDER BY place LIMIT :most) AS next_ones
    WHERE quiet_at IS NOT NULL)
ORDER BY entries.place;

-- name: gather
-- Make entries members of the last entry of their burst.
UPDATE entries SET gathered_into = :into, startable_at = NULL WHERE place IN (:places);

-- name: share
-- Set members to the state of the entry whose attempt they share.
UPDATE entries
SET state = own.state, due_at = own.due_at, hold_until = own.hold_until, began_at = own.began_at,
    finished_at = own.finished_at, retries = own.retries, losses = own.losses,
    started_at = own.started_at, node = own.node, quiet_at = own.quiet_at, held = own.held
FROM entries AS own
WHERE entries.gathered_into IN (:places) AND own.place = entries.gathered_into;

-- name: members
-- The messages that share the attempts of these entries, in their order.
SELECT entries.place, entries.gathered_into, entries.event, events.id AS event_id, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body END AS form,
       CASE WHEN EXISTS (SELECT 1 FROM replies WHERE replies.event = entries.event)
            THEN 1 ELSE 0 END AS has_reply,
       CASE WHEN entries.waiting_until IS NULL THEN 0 ELSE 1 END AS had_caller,
       CASE WHEN entries.waiting_until > :now THEN 1 ELSE 0 END AS has_caller
FROM entries
JOIN events ON events.number = entries.event
JOIN deliveries ON deliveries.number = events.delivery
WHERE entries.gathered_into IN (:places)
ORDER BY entries.place;

-- name: count_members
-- How many messages share the attempts of these entries.
SELECT gathered_into, count(*) AS total FROM entries
WHERE gathered_into IN (:places) GROUP BY gathered_into;

-- name: disband
-- Release the members of untried bursts, to be gathered again with later entries.
UPDATE entries SET gathered_into = NULL
WHERE gathered_into IN (:places) AND quiet_at IS NOT NULL;

-- name: leave
-- Release the members of entries that are deleted.
UPDATE entries SET gathered_into = NULL WHERE gathered_into IN (:places);

-- name: leave_deliveries
-- The same for all entries of these deliveries.
UPDATE entries SET gathered_into = NULL
WHERE gathered_into IN (SELECT place FROM entries_of_deliveries WHERE delivery IN (:deliveries));

-- name: bursts_of
-- All entries that share an attempt with any of these.
SELECT place FROM entries WHERE gathered_into IN (:places)
UNION
SELECT gathered_into FROM entries WHERE place IN (:places) AND gathered_into IS NOT NULL
UNION
SELECT other.place FROM entries AS one JOIN entries AS other ON other.gathered_into = one.gathered_into
WHERE one.place IN (:places) AND one.gathered_into IS NOT NULL;
