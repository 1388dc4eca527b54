-- Statements on a copy of a journal of which some pages could not be read any more.

-- name: save_counted
-- How many entries the journal had.
SELECT coalesce(sum(total), 0) AS total FROM tallies;

-- name: save_whole_events
-- Nothing stays that refers to what is lost: here and in the next ones.
DELETE FROM events
WHERE delivery NOT IN (SELECT number FROM deliveries)
   OR conversation NOT IN (SELECT id FROM conversations);

-- name: save_whole_entries
DELETE FROM entries WHERE event NOT IN (SELECT number FROM events);

-- name: save_whole_attempts
DELETE FROM attempts WHERE entry NOT IN (SELECT place FROM entries);

-- name: save_whole_replies
DELETE FROM replies WHERE event NOT IN (SELECT number FROM events);

-- name: save_whole_authors
DELETE FROM authors WHERE event NOT IN (SELECT number FROM events);
