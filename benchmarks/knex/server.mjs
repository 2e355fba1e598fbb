// The contenders' endpoint over knex with tarn.js: the environment says what ../apps/service.py reads.

import http from "node:http";
import knex from "knex";

const env = process.env;
const size = Number(env.SERVICE_SIZE);
const tuned = env.SERVICE_SETTING === "tuned";
const hour = Number(env.SERVICE_HOUR || 3600);
const fast = (seconds) => (hour === 3600 ? seconds : Math.max((seconds * hour) / 3600, 0.1)) * 1000;

// Defaults (knexjs.org/guide, "pool"): min 2, which are not opened at start; tarn.js closes what is
// idle for 30 s, and looks every second (github.com/vincit/tarn.js, "Usage").
const defaults = { min: 2, max: size, idleTimeoutMillis: fast(30), reapIntervalMillis: fast(1) };

// Tuned: all are kept and opened before the first request; short timeouts, where the defaults are
// 30 s (tarn.js, "Usage": acquireTimeoutMillis, createTimeoutMillis).
const careful = { ...defaults, min: size, acquireTimeoutMillis: 5000, createTimeoutMillis: 5000 };

const db = knex({
  client: "pg",
  connection: {
    host: env.PGHOST,
    port: Number(env.PGPORT),
    user: env.PGUSER,
    password: env.PGPASSWORD,
    database: env.PGDATABASE,
  },
  pool: tuned ? careful : defaults,
});

const seconds = Number(env.SERVICE_QUERY);

const server = http.createServer(async (request, response) => {
  try {
    if (request.url !== "/health") await db.raw("SELECT pg_sleep(?)", [seconds]);
    response.end("ok\n");
  } catch (error) {
    response.statusCode = 500;
    response.end("failed\n");
  }
});

if (tuned) {
  const opened = await Promise.all(Array.from({ length: size }, () => db.client.acquireConnection()));
  await Promise.all(opened.map((connection) => db.client.releaseConnection(connection)));
}
server.listen({ fd: Number(env.SERVICE_FD) });

// As whoever restarts Node under load does: what is under way is answered first.
process.on("SIGTERM", () => server.close(() => process.exit(0)));
