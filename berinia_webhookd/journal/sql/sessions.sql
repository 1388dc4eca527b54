-- name: add_session
-- Insert a login link or a login; only the digest of its secret is stored.
INSERT INTO sessions (digest, kind, name, viewer, created_at, expires_at)
VALUES (:digest, :kind, :person, :viewer, :now, CAST(:now AS BIGINT) + :lasts);

-- name: session
-- The person of a link or login, unless it has expired.
SELECT name, viewer FROM sessions WHERE digest = :digest AND kind = :kind AND expires_at > :now;

-- name: end_session
-- Delete a link or login.
DELETE FROM sessions WHERE digest = :digest AND kind = :kind AND expires_at > :now
RETURNING name, viewer;

-- name: forget_sessions
-- Delete expired links and logins.
DELETE FROM sessions WHERE expires_at <= :now;
