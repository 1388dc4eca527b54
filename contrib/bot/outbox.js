// For the WhatsApp bot: writes down every message before it is posted, so that
// `berinia-webhookd reconcile whatsapp FILE` can take in what never arrived. In the bot:
//
//     const { remember } = require('./outbox');
//     remember(message);                        // the very object that is posted,
//     await axios.post(WEBHOOK_URL, message);   // with `messageId` and `timestamp`
//
// One file a day, readable by the bot alone; delete old ones as `journal.retention_days` says.
const fs = require('fs');
const path = require('path');

const FOLDER = process.env.OUTBOX || path.join(__dirname, 'outbox');
fs.mkdirSync(FOLDER, { recursive: true, mode: 0o700 });

function remember(message) {
  const file = path.join(FOLDER, `${new Date().toISOString().slice(0, 10)}.jsonl`);
  fs.appendFileSync(file, `${JSON.stringify(message)}\n`, { mode: 0o600 });
}

module.exports = { remember };
