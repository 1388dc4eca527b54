-- Statements on a copy of a journal with unreadable pages.

-- name: save_counted
-- The number of entries of the journal.
SELECT coalesce(sum(total), 0) AS total FROM tallies;

-- name: save_whole_events
-- Delete rows that refer to lost ones: here and in the next statements.
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
