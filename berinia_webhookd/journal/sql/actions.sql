-- name: note_action
-- Who did what.
INSERT INTO actions (at, who, way, what, about) VALUES (:now, :who, :way, :what, :about);
