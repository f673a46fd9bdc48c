/**
 * Thirty rounds of kill -9 under load, of the pageserver, the compute, or both: every row whose INSERT has returned is
 * there afterwards, in the compute and in a new branch. Once with commits that wait for the pageserver, once with
 * commits that are local to the compute, which then recovers in place.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { SeededRandom } from "../support/random.ts";
import { Cli, sleep } from "./cli.ts";

const ROUNDS = 30;
/** New branches are looked at after this many rounds each. */
const ROUNDS_PER_BRANCH = 5;

/** Inserts one row after the other until the connection breaks or it is told to stop. */
class Writer {
  private next = 1;
  private stopping = false;
  private readonly clients = 3;

  async run(cli: Cli, uri: string): Promise<Set<number>> {
    this.stopping = false;
    const returned = new Set<number>();
    await Promise.all(
      Array.from({ length: this.clients }, async () => {
        const client = await cli.connect(uri);
        try {
          while (!this.stopping) {
            const id = this.next++;
            await client.query("insert into acked values ($1, repeat('x', 200))", [id]);
            returned.add(id);
          }
        } catch {
          // The server was killed: what had not returned may or may not be there.
        } finally {
          await client.end().catch(() => undefined);
        }
      }),
    );
    return returned;
  }

  stop(): void {
    this.stopping = true;
  }
}

async function idsOf(cli: Cli, uri: string): Promise<Set<number>> {
  const client = await cli.connect(uri);
  try {
    const { rows } = await client.query<{ id: number }>("select id from acked");
    return new Set(rows.map((row) => row.id));
  } finally {
    await client.end();
  }
}

function missing(wanted: ReadonlySet<number>, found: ReadonlySet<number>): number[] {
  return [...wanted].filter((id) => !found.has(id));
}

type Victim = "pageserver" | "compute" | "both";

async function kill(cli: Cli, victim: Victim): Promise<void> {
  const pids: number[] = [];
  if (victim !== "compute") pids.push(await cli.pageserverPid());
  if (victim !== "pageserver") pids.push(await cli.computePid("main"));
  for (const pid of pids) {
    assert(pid > 1, `process id ${pid}`);
    process.kill(pid, "SIGKILL");
  }
}

async function rounds(t: TestContext, commit: "remote" | "local"): Promise<void> {
  const random = SeededRandom.forTest(t);
  await using cli = new Cli();
  await cli.ok("init");
  await cli.ok("pg", "create", "main", "--commit", commit);
  const uri = await cli.ok("pg", "url", "main");
  const setup = await cli.connect(uri);
  await setup.query("create table acked (id int primary key, filler text)");
  await setup.end();
  const writer = new Writer();
  const acknowledged = new Set<number>();
  for (let round = 1; round <= ROUNDS; round++) {
    const victim = random.pick<Victim>(["pageserver", "compute", "both"]);
    const running = writer.run(cli, uri);
    await sleep(random.between(0, 300));
    await kill(cli, victim);
    // With only the pageserver gone, remote commits wait and local ones go on: both until it is back.
    if (victim === "pageserver") {
      await sleep(random.between(0, 200));
      await cli.ok("start");
      await sleep(random.between(0, 300));
      writer.stop();
    }
    for (const id of await running) acknowledged.add(id);
    await cli.ok("start");
    await cli.ok("pg", "start", "main");
    assert.deepEqual(missing(acknowledged, await idsOf(cli, uri)), [], `round ${round}, killed: ${victim}`);
    if (round % ROUNDS_PER_BRANCH === 0) {
      await cli.ok("branch", `after-${round}`);
      const branch = await cli.ok("pg", "create", `after-${round}`);
      assert.deepEqual(missing(acknowledged, await idsOf(cli, branch)), [], `branch after round ${round}`);
      await cli.ok("pg", "destroy", `after-${round}`, "--force");
    }
  }
  t.diagnostic(`${acknowledged.size} acknowledged rows survived ${ROUNDS} kills`);
  assert(acknowledged.size > ROUNDS, "the load was there");
}

test("nothing acknowledged is lost, commit = remote", { timeout: 600_000 }, (t) => rounds(t, "remote"));

test("nothing acknowledged is lost, commit = local", { timeout: 600_000 }, (t) => rounds(t, "local"));
