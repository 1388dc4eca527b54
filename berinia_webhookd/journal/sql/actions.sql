-- name: note_action
-- Who did what.
INSERT INTO actions (at, who, way, what, about) VALUES (:now, :who, :way, :what, :about);

-- name: actions_on
-- What was done by hand with an event or a rejected delivery since it came, by its id.
SELECT at AS done_at, who, way, what FROM actions WHERE at >= :since AND about LIKE :id_in_json
ORDER BY at DESC LIMIT 100;
