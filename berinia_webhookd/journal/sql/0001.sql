-- The journal's tables. Instants are microseconds since 1970 by the database's clock, but for
-- received_at, which is by the clock of the node that received. Yes and no are 1 and 0.
--
-- Partial indexes over the few open entries keep every question of the dispatcher fast beside
-- millions of finished ones.

-- One row for each request, in the order of arrival.
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,             -- UUIDv7, as every id that is text
    channel TEXT NOT NULL,
    target TEXT NOT NULL,         -- the request target, without secrets
    headers TEXT,                 -- JSON: those that the channel keeps
    content_type TEXT NOT NULL,
    node TEXT NOT NULL,           -- that received it
    received_at BIGINT NOT NULL,
    state TEXT NOT NULL,          -- accepted, rejected
    rejection TEXT,               -- JSON: why it was rejected, or which of its items were
    replay_key BYTEA,             -- what makes this very request unique
    once_key BYTEA,               -- of a rejected one: it is kept once
    body BYTEA                    -- NULL once erased
);
CREATE INDEX deliveries_rejected ON deliveries (id) WHERE rejection IS NOT NULL;
CREATE INDEX deliveries_rejected_at ON deliveries (received_at) WHERE rejection IS NOT NULL;
CREATE INDEX deliveries_rejected_whole ON deliveries (id) WHERE state = 'rejected';
CREATE UNIQUE INDEX deliveries_replay_key ON deliveries (replay_key)
    WHERE replay_key IS NOT NULL AND state = 'accepted';
CREATE UNIQUE INDEX deliveries_once_key ON deliveries (once_key) WHERE once_key IS NOT NULL;

-- The unit of order: normal forms of the parties; NULL once erased.
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    sender TEXT,
    party TEXT,
    paused_at BIGINT,
    paused_until BIGINT,          -- NULL while paused: until somebody resumes it
    paused_by TEXT,
    paused_for TEXT               -- why
);
CREATE UNIQUE INDEX conversations_parties ON conversations (channel, sender, party);
CREATE INDEX conversations_sender ON conversations (sender);
CREATE INDEX conversations_party ON conversations (party);

-- What a delivery means: none to many for each.
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    delivery BIGINT NOT NULL REFERENCES deliveries (number) ON DELETE CASCADE,
    kind TEXT NOT NULL,           -- message, receipt, other
    conversation BIGINT NOT NULL REFERENCES conversations (id),
    digest BYTEA NOT NULL,        -- the same digest is the same event
    opt_out TEXT,                 -- STOP, START, HELP
    skipped TEXT,                 -- by which rule of its channel
    about TEXT,                   -- of a receipt: whose receipt it is
    rank INTEGER,                 -- of a receipt: its status among those of its channel
    reconcile_key BYTEA,          -- what reconciliation knows it by
    rebuilt_key BYTEA,            -- of one that reconciliation took in: what its callback has
    raw_in_body INTEGER NOT NULL,-- 1: its raw fields are read from the delivery's body
    data TEXT                     -- JSON: the event in our shape; NULL once erased
);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE UNIQUE INDEX events_digest ON events (digest);
CREATE INDEX events_delivery ON events (delivery);
CREATE INDEX events_conversation ON events (conversation);
CREATE INDEX events_about ON events (about) WHERE about IS NOT NULL;
CREATE INDEX events_reconcile_key ON events (reconcile_key) WHERE reconcile_key IS NOT NULL;
CREATE INDEX events_rebuilt_key ON events (rebuilt_key) WHERE rebuilt_key IS NOT NULL;

-- One event for one agent, or one late reply to post. A conversation's entries of one kind for one
-- agent are a queue; the place is an entry's key and its order in it.
CREATE TABLE entries (
    place INTEGER PRIMARY KEY,
    event BIGINT NOT NULL REFERENCES events (number) ON DELETE CASCADE,
    kind TEXT NOT NULL,           -- agent, reply
    agent TEXT NOT NULL,
    conversation BIGINT NOT NULL,
    opt_out INTEGER NOT NULL,     -- 1: STOP or START, which overtake
    state TEXT NOT NULL,
    startable_at BIGINT,          -- set on the next entry of its queue and no other; 0: at once
    due_at BIGINT,                -- of one that waits: when it is tried again
    hold_until BIGINT,            -- until when its failures hold back its queue
    lease_until BIGINT,
    lease_holder TEXT,
    node TEXT,                    -- where it ran last
    started_at BIGINT,
    began_at BIGINT,              -- of an at-most-once agent: when its attempt began
    attempts INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    held TEXT,                    -- which guard holds it, while it is ready
    gathered_into BIGINT,         -- the place of the entry whose attempt it shares
    waiting_until BIGINT,         -- until when a caller waits for the reply
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX entries_event ON entries (event);
CREATE INDEX entries_ready ON entries (conversation, kind, agent, place) WHERE state = 'ready';
CREATE INDEX entries_ready_opt_out ON entries (conversation, kind, agent, place)
    WHERE state = 'ready' AND opt_out = 1;
CREATE INDEX entries_waiting ON entries (conversation, kind, agent, place) WHERE state = 'waiting';
CREATE UNIQUE INDEX entries_running ON entries (conversation, kind, agent)
    WHERE state = 'running' AND gathered_into IS NULL;
CREATE UNIQUE INDEX entries_next ON entries (conversation, kind, agent)
    WHERE startable_at IS NOT NULL;
CREATE INDEX entries_startable ON entries (kind, agent, startable_at, place)
    WHERE startable_at IS NOT NULL;
CREATE INDEX entries_oldest_ready ON entries (agent, place) WHERE state = 'ready';
CREATE INDEX entries_held ON entries (held, place) WHERE held IS NOT NULL;
CREATE INDEX entries_gathered ON entries (gathered_into) WHERE gathered_into IS NOT NULL;
CREATE INDEX entries_finished ON entries (finished_at)
    WHERE finished_at IS NOT NULL AND state <> 'dead';
CREATE INDEX entries_callers ON entries (waiting_until)
    WHERE waiting_until IS NOT NULL AND finished_at IS NULL;
CREATE INDEX entries_dead ON entries (place) WHERE state = 'dead';

CREATE TABLE attempts (
    entry BIGINT NOT NULL REFERENCES entries (place) ON DELETE CASCADE ON UPDATE CASCADE,
    number INTEGER NOT NULL,
    node TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT,
    reply TEXT,                   -- where it went nowhere; else it is in replies
    PRIMARY KEY (entry, number)
) /*sqlite WITHOUT ROWID */;

-- What people ask about an entry, with its event and delivery.
CREATE VIEW entries_in_full AS
SELECT entries.place, entries.kind, entries.agent, entries.conversation, entries.state,
       entries.event, events.id, events.kind AS event_kind, events.delivery,
       deliveries.channel, deliveries.received_at,
       (SELECT count(*) FROM attempts WHERE attempts.entry = entries.place) AS attempts_made
FROM entries
JOIN events ON events.number = entries.event
JOIN deliveries ON deliveries.number = events.delivery;

CREATE TABLE replies (
    event INTEGER PRIMARY KEY REFERENCES events (number) ON DELETE CASCADE,
    text TEXT NOT NULL,
    route TEXT NOT NULL,          -- inline, late, undeliverable
    failed INTEGER NOT NULL,      -- 1: the agent returned it as an error
    postable INTEGER NOT NULL,    -- 1: it may be posted late
    decided_at BIGINT NOT NULL
);

-- Digests that outlive their events, and keys made of used signatures.
CREATE TABLE seen (
    digest BYTEA PRIMARY KEY,
    event TEXT NOT NULL,          -- its id
    received_at BIGINT NOT NULL
) /*sqlite WITHOUT ROWID */;
CREATE INDEX seen_received_at ON seen (received_at);

-- Who may be written to: opt-outs, by address and channel.
CREATE TABLE consents (
    address TEXT NOT NULL,        -- its normal form, or a keyed digest of it once erased
    channel TEXT NOT NULL,
    state TEXT NOT NULL,          -- opted_out, opted_in
    since BIGINT,                 -- NULL: nobody knows
    event TEXT,                   -- the id of the one that said so
    PRIMARY KEY (address, channel)
) /*sqlite WITHOUT ROWID */;

-- Who did what.
CREATE TABLE actions (
    number INTEGER PRIMARY KEY,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    way TEXT NOT NULL,            -- command, console
    what TEXT NOT NULL,
    about TEXT                    -- JSON: ids, filters, counts
);
CREATE INDEX actions_at ON actions (at);

-- Links to log in by, and logins; only digests of what people hold.
CREATE TABLE sessions (
    digest BYTEA PRIMARY KEY,
    kind TEXT NOT NULL,           -- link, login
    name TEXT NOT NULL,
    viewer INTEGER NOT NULL,      -- 1: sees masked texts and changes nothing
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- How many entries are in each state: the sum over shards, which let several nodes count without
-- waiting for one another.
CREATE TABLE tallies (
    kind TEXT NOT NULL,
    channel TEXT NOT NULL,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    shard INTEGER NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (kind, channel, agent, state, shard)
) /*sqlite WITHOUT ROWID */;

-- Why an agent cannot be loaded, by the node that tried.
CREATE TABLE unavailable_agents (
    agent TEXT NOT NULL,
    node TEXT NOT NULL,
    reason TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (agent, node)
);

CREATE TABLE schema (
    version INTEGER NOT NULL,
    oldest_program TEXT NOT NULL  -- that can work with it
);
INSERT INTO schema (version, oldest_program) VALUES (1, '0.1.0');

/*postgresql
-- One counter for the numbers of deliveries and events, and for places.
CREATE SEQUENCE numbers;
*/
