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
    replay_key BYTEA,             -- a digest of its signature, where one may be used once only
    once_key BYTEA,               -- of a rejected one: the same if it is sent again; it is kept once
    body BYTEA                    -- NULL once erased
);
CREATE INDEX deliveries_rejected ON deliveries (id) WHERE rejection IS NOT NULL;
CREATE INDEX deliveries_rejected_at ON deliveries (received_at) WHERE rejection IS NOT NULL;
CREATE INDEX deliveries_rejected_whole ON deliveries (id) WHERE state = 'rejected';
CREATE UNIQUE INDEX deliveries_replay_key ON deliveries (replay_key)
    WHERE replay_key IS NOT NULL AND state = 'accepted';
CREATE UNIQUE INDEX deliveries_once_key ON deliveries (once_key) WHERE once_key IS NOT NULL;

-- The unit of order: normal forms of the parties; NULL once erased. A pause of everybody with a
-- party stands on a row of its own too, whose sender is ' everybody' (no normal form begins with a
-- blank): a new conversation with the party is paused by it.
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    channel TEXT NOT NULL,
    sender TEXT,
    party TEXT,
    of_group INTEGER NOT NULL,    -- 1: the party is a group
    paused_at BIGINT,
    paused_until BIGINT,          -- NULL while paused: until somebody resumes it
    paused_by TEXT,
    paused_for TEXT,              -- why
    guards_from BIGINT            -- guards count nothing from before: somebody resumed it
);
CREATE UNIQUE INDEX conversations_parties ON conversations (sender, channel, party);
CREATE INDEX conversations_of_group ON conversations (party, channel) WHERE of_group = 1;
CREATE INDEX conversations_paused ON conversations (paused_until) WHERE paused_at IS NOT NULL;

-- What a delivery means: none to many for each. Their numbers begin at the delivery's times 1048576,
-- so that they are found by their key.
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    delivery BIGINT NOT NULL,
    place BIGINT NOT NULL,        -- the place of the entry for its agent
    kind TEXT NOT NULL,           -- message, receipt, other
    conversation BIGINT NOT NULL,
    digest BYTEA NOT NULL,        -- the same digest is the same event
    opt_out TEXT,                 -- STOP, START, HELP
    skipped TEXT,                 -- by which rule of its channel
    about TEXT,                   -- of a receipt: the channel and the message it is about
    rank INTEGER,                 -- of a receipt: its status as a number; a lower one is skipped
    reconcile_key BYTEA,          -- by what its provider's list knows it, if not by the digest
    rebuilt_key BYTEA,            -- of one that reconciliation took in: its callback's reconcile_key
    raw_in_body INTEGER NOT NULL, -- 1: its raw fields are read from the delivery's body
    data TEXT                     -- JSON: the event in our shape; NULL once erased
);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE UNIQUE INDEX events_digest ON events (digest);
CREATE INDEX events_about ON events (about) WHERE about IS NOT NULL;
CREATE INDEX events_reconcile_key ON events (reconcile_key) WHERE reconcile_key IS NOT NULL;
CREATE INDEX events_rebuilt_key ON events (rebuilt_key) WHERE rebuilt_key IS NOT NULL;

-- Who else an event is from, in normal form: in mails, the people of From and Reply-To, where they
-- are not its sender.
CREATE TABLE authors (
    event BIGINT NOT NULL REFERENCES events (number) ON DELETE CASCADE,
    address TEXT NOT NULL,
    PRIMARY KEY (event, address)
) /*sqlite WITHOUT ROWID */;
CREATE INDEX authors_address ON authors (address);

-- One event for one agent, or one late reply to post. A conversation's entries of one kind for one
-- agent are a queue; the place is an entry's key and its order in it.
CREATE TABLE entries (
    place INTEGER PRIMARY KEY,
    event BIGINT NOT NULL,
    kind TEXT NOT NULL,           -- agent, reply
    agent TEXT NOT NULL,
    conversation BIGINT NOT NULL,
    opt_out INTEGER NOT NULL,     -- 1: STOP or START, which overtake
    state TEXT NOT NULL,
    startable_at BIGINT,          -- set on the next entry of its queue and no other; 0: at once
    due_at BIGINT,                -- of one that waits or is held: when it may start; NULL: never yet
    hold_until BIGINT,            -- until when its failures hold back its queue
    lease_until BIGINT,           -- of one that runs: until when its process has it, unless extended
    lease_holder TEXT,            -- the process that has it
    node TEXT,                    -- where it ran last
    started_at BIGINT,            -- when its last attempt began
    began_at BIGINT,              -- the same for an at-most-once agent that acted, or may have
    attempts INTEGER NOT NULL,
    retries INTEGER NOT NULL,     -- how many of the retry schedule's steps are used
    losses INTEGER NOT NULL,      -- how often a process died while it ran
    held TEXT,                    -- which guard holds it and why, while it is ready
    loop_key BIGINT,              -- of a message: a hash of its text; 1: no text, 0: sent by a machine
    quiet_at BIGINT,              -- with gather_seconds: it waits for more messages until then,
    gather_by BIGINT,             -- and until then if more and more come
    gathered_into BIGINT,         -- the place of the entry whose attempt it shares
    waiting_until BIGINT,         -- until when a caller waits for the reply
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
-- For the views below alone: `IS TRUE` keeps all other questions from reading through these two.
CREATE INDEX entries_replies ON entries (event) WHERE (kind = 'reply') IS TRUE;
CREATE INDEX entries_conversation ON entries (conversation /*postgresql , place */)
    WHERE (startable_at IS NULL) IS TRUE;
CREATE INDEX entries_ready ON entries (conversation, kind, agent, place)
    WHERE state = 'ready' AND startable_at IS NULL;
CREATE INDEX entries_ready_opt_out ON entries (conversation, kind, agent, place)
    WHERE state = 'ready' AND startable_at IS NULL AND opt_out = 1;
CREATE INDEX entries_waiting ON entries (conversation, kind, agent, place) WHERE state = 'waiting';
CREATE UNIQUE INDEX entries_running ON entries (conversation, kind, agent)
    WHERE state = 'running' AND gathered_into IS NULL;
CREATE UNIQUE INDEX entries_next ON entries (conversation, kind, agent)
    WHERE startable_at IS NOT NULL;
CREATE INDEX entries_startable ON entries (kind, agent, startable_at, place)
    WHERE startable_at IS NOT NULL;
CREATE INDEX entries_startable_opt_out ON entries (kind, agent, startable_at, place)
    WHERE startable_at IS NOT NULL AND opt_out = 1;
CREATE INDEX entries_oldest_ready ON entries (agent, place)
    WHERE state = 'ready' AND startable_at IS NULL;
CREATE INDEX entries_held ON entries (conversation, kind, agent) WHERE held IS NOT NULL;
CREATE INDEX entries_gathered ON entries (gathered_into, place) WHERE gathered_into IS NOT NULL;
CREATE INDEX entries_finished ON entries (finished_at)
    WHERE finished_at IS NOT NULL AND state <> 'dead';
CREATE INDEX entries_callers ON entries (waiting_until)
    WHERE waiting_until IS NOT NULL AND finished_at IS NULL;
CREATE INDEX entries_dead ON entries (place) WHERE state = 'dead';
CREATE INDEX entries_discarded ON entries (place) WHERE state = 'discarded';

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

-- The entries of an event: that of its agent, and late replies.
CREATE VIEW entries_of_events (event, place) AS
SELECT number, place FROM events
UNION ALL
SELECT event, place FROM entries WHERE (kind = 'reply') IS TRUE;

-- The events of each delivery, which are found by the range of their numbers.
CREATE VIEW received_events AS
SELECT deliveries.number AS delivery, deliveries.state, deliveries.replay_key, deliveries.received_at,
       events.number AS event, events.id, events.place, events.conversation, events.digest
FROM deliveries JOIN events
    ON events.number BETWEEN deliveries.number * 1048576 AND deliveries.number * 1048576 + 1048575;

-- The entries of all events of a delivery.
CREATE VIEW entries_of_deliveries (delivery, event, place) AS
SELECT delivery, event, place FROM received_events
UNION ALL
SELECT deliveries.number, entries.event, entries.place
FROM deliveries JOIN entries
    ON entries.event BETWEEN deliveries.number * 1048576 AND deliveries.number * 1048576 + 1048575
    AND (entries.kind = 'reply') IS TRUE;

-- The entries of a conversation: those that are next in their queues, and all others.
CREATE VIEW entries_of_conversations (conversation, event, place) AS
SELECT conversation, event, place FROM entries WHERE startable_at IS NOT NULL
UNION ALL
SELECT conversation, event, place FROM entries WHERE (startable_at IS NULL) IS TRUE;

-- What of conversations has not begun, or waits for its retry.
CREATE VIEW entries_to_start (conversation, place) AS
SELECT conversation, place FROM entries WHERE startable_at IS NOT NULL
UNION ALL
SELECT conversation, place FROM entries WHERE state = 'ready' AND startable_at IS NULL
UNION ALL
SELECT conversation, place FROM entries WHERE state = 'waiting';

-- What is held: conversations that are paused, and those in which a guard stopped an entry.
CREATE VIEW held_conversations (conversation, reason, created_at) AS
SELECT id, 'paused', NULL FROM conversations WHERE paused_at IS NOT NULL AND sender <> ' everybody'
UNION ALL
SELECT conversation, held, created_at FROM entries WHERE held IS NOT NULL;

-- Why an entry is held, or skipped.
CREATE VIEW reasons (place, reason) AS
SELECT entries.place,
       CASE WHEN entries.state = 'skipped' THEN events.skipped
            WHEN entries.state NOT IN ('ready', 'waiting') OR entries.kind = 'reply'
                 OR entries.opt_out = 1 THEN NULL
            WHEN conversations.paused_at IS NOT NULL THEN 'paused'
            ELSE entries.held END
FROM entries
JOIN events ON events.number = entries.event
JOIN conversations ON conversations.id = entries.conversation;

-- What people ask about an entry, with its event and delivery.
CREATE VIEW entries_in_full AS
SELECT entries.place, entries.kind, entries.agent, entries.conversation, entries.state,
       entries.began_at, entries.event, events.id, events.kind AS event_kind, events.delivery,
       deliveries.channel, deliveries.received_at,
       (SELECT other.id FROM entries AS last JOIN events AS other ON other.number = last.event
        WHERE last.place = entries.gathered_into) AS gathered_into,
       (SELECT count(*) FROM attempts WHERE attempts.entry = entries.place) AS attempts_made,
       (SELECT reason FROM reasons WHERE reasons.place = entries.place) AS reason
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

-- The register of consents: who may be written to, by address and channel.
CREATE TABLE consents (
    address TEXT NOT NULL,        -- its normal form, or a keyed digest of it once erased
    channel TEXT NOT NULL,
    state TEXT NOT NULL,          -- opted_out, opted_in
    since BIGINT,                 -- NULL: nobody knows
    event TEXT,                   -- the id of the one that said so
    latest_at BIGINT NOT NULL,    -- of the newest event that said anything: older ones come too late
    erased_by TEXT,               -- once the address is a digest: the name of the key that made it
    PRIMARY KEY (address, channel)
) /*sqlite WITHOUT ROWID */;

CREATE INDEX consents_latest ON consents (latest_at);
CREATE INDEX consents_erased ON consents (erased_by) WHERE erased_by IS NOT NULL;

-- Who did what.
CREATE TABLE actions (
    number INTEGER PRIMARY KEY /*postgresql GENERATED BY DEFAULT AS IDENTITY */,
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

-- What an agent's guards know of it, over all conversations. No row: nothing.
CREATE TABLE agents (
    agent TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,    -- attempts that failed since one that did not
    tries INTEGER NOT NULL,       -- that began since it is held for them
    failed_at BIGINT,             -- when the last one failed
    day BIGINT NOT NULL,          -- in UTC, counted from 1970: of the cost
    cost DOUBLE PRECISION NOT NULL, -- what its results of that day cost together
    spent_on BIGINT               -- the last day on which its budget held something back
) /*sqlite WITHOUT ROWID */;

-- When agents ran that have a budget for each person.
CREATE TABLE runs (
    sender TEXT NOT NULL,         -- the person, in normal form
    agent TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    entry BIGINT NOT NULL,        -- its place then
    PRIMARY KEY (sender, agent, started_at, entry)
) /*sqlite WITHOUT ROWID */;
CREATE INDEX runs_started_at ON runs (started_at);

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
-- One counter for the numbers of deliveries and events, for places, and for conversations.
CREATE SEQUENCE numbers;
*/
