/**
 * The workload generator: a random workload, repeatable by its seed as far as several clients at once can be, that
 * reaches every resource manager of Postgres and most kinds of DDL. Runs on every supported major version; under which
 * settings and for how long is the caller's choice.
 */
import { runIndexCrowd } from "../postgres/redo-index-workload.ts";
import { retireTransactions, runRareWorkload } from "../postgres/redo-rare-workload.ts";
import { runDdlZoo } from "./ddl-zoo.ts";
import type { TestPostgres } from "./postgres.ts";
import type { SeededRandom } from "./random.ts";
import { Workload, prepareWorkload } from "./workload.ts";

export interface GeneratorOptions {
  /** Clients that work beside the other statements. */
  readonly clients: number;
  /** Distinguishes the names of objects when the generator runs more than once on a server. */
  readonly tag?: string;
}

/**
 * Settings that the generator needs beside those that a test server has. `wal_level` may be `replica`; then what is
 * logged for logical decoding only does not occur.
 */
export { RARE_SETTINGS as GENERATOR_SETTINGS } from "../postgres/redo-rare-workload.ts";

/**
 * Works on a fresh server until everything has been done once. Nothing may be prepared when it begins. With counters
 * that `moveCounters` has put to `SHORTLY_BEFORE_SEGMENTS`, segments of every SLRU come and go.
 */
export async function generate(
  server: TestPostgres,
  random: SeededRandom,
  options: GeneratorOptions,
): Promise<void> {
  const tag = options.tag ?? "one";
  if (options.tag === undefined) {
    await retireTransactions(server);
    await runRareWorkload(server, random);
    await prepareWorkload(server);
  }
  const workload = new Workload(server, { seed: random.u32(), clients: options.clients });
  const client = await server.connect();
  try {
    await runDdlZoo(client, random, tag);
    if (options.tag === undefined) await runIndexCrowd(server, client, random);
    await client.query("checkpoint");
    await runDdlZoo(client, random, `${tag}_again`);
  } finally {
    await client.end();
    await workload.stop();
  }
}
