-- name: add_session
-- A link to log in by, or a login; what people hold is known by its digest alone.
INSERT INTO sessions (digest, kind, name, viewer, created_at, expires_at)
VALUES (:digest, :kind, :person, :viewer, :now, CAST(:now AS BIGINT) + :lasts);

-- name: session
-- Whose it is, unless its time is over.
SELECT name, viewer FROM sessions WHERE digest = :digest AND kind = :kind AND expires_at > :now;

-- name: end_session
-- It counts no longer.
DELETE FROM sessions WHERE digest = :digest AND kind = :kind AND expires_at > :now
RETURNING name, viewer;

-- name: forget_sessions
-- Those whose time is over go.
DELETE FROM sessions WHERE expires_at <= :now;

-- name: end_sessions_of
-- All that somebody has, links too.
DELETE FROM sessions WHERE name = :person RETURNING kind;
