-- name: entries_of_events
-- All entries of these events, in their order.
SELECT place, kind, channel, agent, conversation, state, event, id, began_at FROM entries_in_full
WHERE place IN (SELECT entries_of_events.place
                FROM events JOIN entries_of_events ON entries_of_events.event = events.number
                WHERE events.id IN (:events))
ORDER BY place;

-- name: entries_at
-- The entries at these places now; a replayed one has a new place.
SELECT place, kind, channel, agent, conversation, state, event, id, began_at FROM entries_in_full
WHERE place IN (:places) ORDER BY place;

-- name: entries_of
-- The entries of events, with the columns that a change of their state needs.
SELECT place, kind, channel, agent, conversation, state FROM entries_in_full
WHERE place IN (SELECT place FROM entries_of_events WHERE event IN (:events));

-- name: replay_entry
-- Make an entry ready again, after all existing ones, with its full retry schedule.
UPDATE entries
SET place = :to, state = 'ready', startable_at = NULL, due_at = NULL, hold_until = NULL,
    retries = 0, losses = 0, held = NULL, finished_at = NULL, began_at = NULL, lease_holder = NULL,
    quiet_at = CASE WHEN gather_by IS NOT NULL THEN CAST(:now AS BIGINT) END, gathered_into = NULL
WHERE place = :place;

-- name: move_entry_of_event
-- Store the place of an event's agent entry.
UPDATE events SET place = :to WHERE number = :event AND place = :place;

-- name: discard_entry
-- Discard an entry: it never runs again, unless it is replayed.
UPDATE entries
SET state = 'discarded', startable_at = NULL, due_at = NULL, held = NULL, finished_at = :now
WHERE place = :place;

-- name: rejected_delivery
-- A delivery that was rejected, at least in part; locked.
SELECT number, state, rejection, channel, target, headers, content_type, received_at, replay_key,
       body
FROM deliveries WHERE id = :id AND rejection IS NOT NULL
/*postgresql FOR NO KEY UPDATE */;

-- name: events_of_delivery
-- The events of a delivery.
SELECT event AS number, id FROM received_events WHERE delivery = :delivery ORDER BY event;

-- name: accept_again
-- Mark a replayed delivery as accepted; items still rejected are stored once.
UPDATE deliveries
SET state = 'accepted', rejection = :rejection,
    once_key = CASE WHEN CAST(:rejection AS TEXT) IS NOT NULL THEN once_key END
WHERE number = :number;
