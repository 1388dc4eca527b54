-- name: make_consents
-- Insert a row to lock for each person on a channel; it is updated before the commit.
INSERT INTO consents (address, channel, state, latest_at)
VALUES (:address, :channel, 'opted_in', 0)
ON CONFLICT (address, channel) DO NOTHING;

-- name: hold_consents
-- The register's rows of these people, locked.
SELECT address, channel, state, since, event, latest_at FROM consents
WHERE address IN (:addresses) ORDER BY address, channel
/*postgresql FOR UPDATE */;

-- name: write_consent
-- Store a person's latest statement.
UPDATE consents SET state = :state, since = :since, event = :event, latest_at = :latest_at
WHERE address = :address AND channel = :channel;

-- name: any_erased
-- Whether the register has an erased person.
SELECT 1 AS found FROM consents WHERE erased_by IS NOT NULL LIMIT 1;

-- name: erased_by_another
-- Digests made with another key.
SELECT erased_by FROM consents WHERE erased_by IS NOT NULL AND erased_by <> :key LIMIT 1;

-- name: recognise
-- Replace the digest of an erased person who writes again by the address.
UPDATE consents SET address = :address, erased_by = NULL
WHERE address = :digest AND erased_by = :key;

-- name: erase_consents
-- Replace an address by its digest.
UPDATE consents SET address = :digest, erased_by = :key WHERE address = :address;

-- name: count_consents
-- On how many channels the register has a person.
SELECT count(*) AS total FROM consents WHERE address = :address;

-- name: list_consents
-- The latest statements, on all channels or one.
SELECT address, channel, state, since, event, erased_by FROM consents
WHERE channel = coalesce(:channel, channel) ORDER BY latest_at DESC LIMIT :most;

-- name: consents_behind
-- The register in the order of its key, after a given key.
SELECT address, channel, state, since, event, erased_by FROM consents
WHERE (address, channel) > (:address, :channel) ORDER BY address, channel LIMIT :most;

-- name: consents_of
-- The register's rows of a person, by the address or its digest.
SELECT address, channel, state, since, event, erased_by FROM consents
WHERE address IN (:addresses) ORDER BY channel;
