-- Statements whose names begin with `table_` are filled in for each table that is copied: {key} are
-- the columns of its key, {last} and {end} parameters for them, and {large} its large columns.

-- name: table_columns
-- The columns of a table.
/*sqlite SELECT name FROM pragma_table_info(:table) ORDER BY cid */
/*postgresql SELECT column_name AS name FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = :table ORDER BY ordinal_position */;

-- name: table_count
-- The number of rows.
SELECT count(*) AS total FROM {table};

-- name: table_count_until
-- The number of rows up to a key.
SELECT count(*) AS total FROM {table} WHERE ({key}) <= ({last});

-- name: table_last_key
-- The last key.
SELECT {key} FROM {table} ORDER BY {backwards} LIMIT 1;

-- name: table_row
-- The row of a key.
SELECT {columns} FROM {table} WHERE ({key}) = ({last});

-- name: table_sizes
-- The sizes of the next rows after a key.
SELECT {key}, coalesce(length({large}), 0) AS size FROM {table}
WHERE ({key}) > ({last}) ORDER BY {key} LIMIT :most;

-- name: table_page
-- The rows between two keys.
SELECT {columns} FROM {table} WHERE ({key}) > ({last}) AND ({key}) <= ({end}) ORDER BY {key};

-- name: table_insert
-- One row of the copy.
INSERT INTO {table} ({columns}) VALUES ({values});

-- name: held_in_target
-- How many events a journal holds, and when the newest delivery came.
SELECT (SELECT count(*) FROM events) AS events,
       (SELECT max(received_at) FROM deliveries) AS newest;

-- name: other_sessions
-- How many other processes of ours use a PostgreSQL database.
SELECT count(*) AS total FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND application_name = 'berinia-webhookd';

-- name: forget_tallies
-- Delete the counts, to count again.
DELETE FROM tallies;

-- name: recount
-- Count the entries by state.
INSERT INTO tallies (kind, channel, agent, state, shard, total)
SELECT kind, channel, agent, state, 0, count(*) FROM entries_in_full
GROUP BY kind, channel, agent, state;

-- name: continue_numbers
-- Start PostgreSQL's sequence of numbers after the copied ones.
SELECT setval('numbers', greatest((SELECT max(number) FROM deliveries),
                                  (SELECT max(place) / 1048576 FROM entries),
                                  (SELECT max(id) FROM conversations)));

-- name: continue_actions
-- The same for actions.
SELECT setval(pg_get_serial_sequence('actions', 'number'), max(number)) FROM actions;
