-- name: note_action
-- Insert an action.
INSERT INTO actions (at, who, way, what, about) VALUES (:now, :who, :way, :what, :about);

-- name: actions_on
-- The manual actions on an event or a rejected delivery since it came, by its id.
SELECT at AS done_at, who, way, what FROM actions WHERE at >= :since AND about LIKE :id_in_json
ORDER BY at DESC LIMIT 100;
