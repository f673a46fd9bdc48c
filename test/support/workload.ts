/**
 * A workload of several clients at once, with a seed: what ordinary applications do, and now and then what they rarely
 * do. Every transaction that writes leaves its xid in `journal`, so that a copy of the database can be held against
 * the commit records of the WAL.
 */
import type { Client } from "pg";
import type { TestPostgres } from "./postgres.ts";
import { SeededRandom } from "./random.ts";

const ACCOUNTS = 200;

/** Creates what the workload works on. The balance of all accounts stays 0. */
export async function prepareWorkload(server: TestPostgres): Promise<void> {
  for (const statement of [
    "create table journal (id bigserial primary key, xid bigint not null default pg_current_xact_id()::text::bigint, note text)",
    "create table account (id int primary key, balance int not null default 0, filler text default repeat('f', 60))",
    `insert into account (id) select generate_series(1, ${ACCOUNTS})`,
    "create table child (id bigserial primary key, account int references account, v text)",
    "create index child_v on child (v)",
    "create table document (id bigserial primary key, body text)",
    "alter table document alter body set storage external",
    "create table queue (id bigserial primary key, payload text)",
    "create unlogged table scratch (id int primary key, v text)",
    "create sequence ticket",
    "vacuum (freeze) account",
  ]) {
    await server.query(statement);
  }
}

type Step = (client: Client, random: SeededRandom, tag: string) => Promise<void>;

/** One transaction that writes to the journal. */
async function transaction(client: Client, note: string, work: () => Promise<unknown>): Promise<void> {
  await client.query("begin");
  try {
    await client.query("insert into journal (note) values ($1)", [note]);
    await work();
    await client.query("commit");
  } catch (error) {
    await client.query("rollback").catch(() => undefined);
    throw error;
  }
}

const STEPS: readonly (readonly [weight: number, step: Step])[] = [
  [20, transfer],
  [10, insertChildren],
  [6, updateChildren],
  [4, deleteChildren],
  [5, subtransactions],
  [4, shareLocks],
  [3, abortedWork],
  [4, documents],
  [4, drainQueue],
  [2, preparedTransaction],
  [2, temporaryAndUnlogged],
  [2, ddl],
  [1, truncate],
  [1, vacuum],
  [1, sequences],
];

async function transfer(client: Client, random: SeededRandom): Promise<void> {
  const amount = random.between(1, 100);
  const ids = [random.between(1, ACCOUNTS), random.between(1, ACCOUNTS)].sort((a, b) => a - b);
  await transaction(client, "transfer", async () => {
    await client.query("update account set balance = balance - $1 where id = $2", [amount, ids[0]]);
    await client.query("update account set balance = balance + $1 where id = $2", [amount, ids[1]]);
  });
}

async function insertChildren(client: Client, random: SeededRandom): Promise<void> {
  await transaction(client, "children", () =>
    client.query(
      "insert into child (account, v) select $1, md5(random()::text) from generate_series(1, $2)",
      [random.between(1, ACCOUNTS), random.between(1, 60)],
    ),
  );
}

async function updateChildren(client: Client, random: SeededRandom): Promise<void> {
  await transaction(client, "update", () =>
    client.query("update child set v = md5(v) where account = $1", [random.between(1, ACCOUNTS)]),
  );
}

async function deleteChildren(client: Client, random: SeededRandom): Promise<void> {
  await transaction(client, "delete", () =>
    client.query("delete from child where account between $1 and $1 + 5", [random.between(1, ACCOUNTS)]),
  );
}

async function subtransactions(client: Client, random: SeededRandom): Promise<void> {
  await transaction(client, "savepoints", async () => {
    for (let i = 0; i < random.between(1, 8); i++) {
      await client.query("savepoint s");
      await client.query("insert into queue (payload) values ('sub')");
      await client.query(random.chance(0.5) ? "rollback to s" : "release s");
    }
    // More subtransactions than a process remembers.
    if (random.chance(0.1)) {
      await client.query(
        "do $$ begin for i in 1..90 loop begin insert into queue (payload) values ('many'); exception when others then null; end; end loop; end $$",
      );
    }
  });
}

async function shareLocks(client: Client, random: SeededRandom): Promise<void> {
  const id = random.between(1, 20);
  await transaction(client, "share", async () => {
    await client.query("select * from account where id between $1 and $1 + 3 order by id for share", [id]);
    await client.query("select pg_sleep(0.01)");
  });
}

async function abortedWork(client: Client): Promise<void> {
  await client.query("begin");
  await client.query("insert into journal (note) values ('never')");
  await client.query("insert into child (account, v) select 1, 'never' from generate_series(1, 50)");
  await client.query("rollback");
}

async function documents(client: Client, random: SeededRandom): Promise<void> {
  await transaction(client, "document", async () => {
    await client.query("insert into document (body) values (repeat(md5(random()::text), $1))", [
      random.between(1, 1500),
    ]);
    if (random.chance(0.3)) {
      await client.query("update document set body = body || 'x' where id = (select max(id) from document)");
    }
    if (random.chance(0.2)) {
      await client.query("delete from document where id = (select min(id) from document)");
    }
  });
}

async function drainQueue(client: Client): Promise<void> {
  await transaction(client, "queue", () =>
    client.query(
      "delete from queue where id in (select id from queue order by id limit 30 for update skip locked)",
    ),
  );
}

async function preparedTransaction(client: Client, random: SeededRandom, tag: string): Promise<void> {
  const name = `${tag}-${random.u32()}`;
  await client.query("begin");
  await client.query("insert into journal (note) values ('prepared')");
  await client.query("insert into queue (payload) values ('prepared')");
  await client.query(`prepare transaction '${name}'`);
  await client.query("select pg_sleep(0.02)");
  await client.query(random.chance(0.7) ? `commit prepared '${name}'` : `rollback prepared '${name}'`);
}

async function temporaryAndUnlogged(client: Client, random: SeededRandom): Promise<void> {
  await transaction(client, "temporary", async () => {
    await client.query("create temporary table passing (i int) on commit drop");
    await client.query("insert into passing select generate_series(1, 100)");
    await client.query(
      "insert into scratch values ($1, 'x') on conflict (id) do update set v = scratch.v || 'y'",
      [random.between(1, 50)],
    );
  });
}

async function ddl(client: Client, random: SeededRandom, tag: string): Promise<void> {
  const table = `made_${tag}_${random.below(3)}`;
  await transaction(client, "ddl", async () => {
    await client.query(`drop table if exists ${table}`);
    if (random.chance(0.7)) {
      await client.query(`create table ${table} as select i, md5(i::text) v from generate_series(1, 300) i`);
      await client.query(`create index on ${table} (v)`);
    }
  });
}

async function truncate(client: Client): Promise<void> {
  await transaction(client, "truncate", () => client.query("truncate queue"));
}

async function vacuum(client: Client, random: SeededRandom): Promise<void> {
  await client.query(
    `vacuum ${random.chance(0.3) ? "(freeze)" : ""} ${random.pick(["child", "account", "journal", "queue", "document"])}`,
  );
}

async function sequences(client: Client): Promise<void> {
  await transaction(client, "sequence", () =>
    client.query("select nextval('ticket') from generate_series(1, 40)"),
  );
}

/** SQLSTATEs that clients working at once may meet: deadlock, lock not available, duplicate table, undefined table. */
const HARMLESS: ReadonlySet<string> = new Set([
  "40P01",
  "40001",
  "42P07",
  "42P01",
  "55P03",
  "XX000",
  "23505",
]);

export class Workload {
  /** Transactions that have returned. */
  steps = 0;
  private stopping = false;
  private readonly clients: Promise<void>[] = [];
  private readonly total = STEPS.reduce((sum, [weight]) => sum + weight, 0);

  /** Starts clients that go on until `stop`. */
  constructor(server: TestPostgres, options: { seed: number; clients: number }) {
    for (let i = 0; i < options.clients; i++) {
      this.clients.push(this.run(server, new SeededRandom(options.seed + i * 7919), `c${i}`));
    }
  }

  /** Ends all clients; throws what made one of them fail. */
  async stop(): Promise<void> {
    this.stopping = true;
    await Promise.all(this.clients);
  }

  private async run(server: TestPostgres, random: SeededRandom, tag: string): Promise<void> {
    const client = await server.connect();
    try {
      while (!this.stopping) {
        try {
          await this.pick(random)(client, random, tag);
        } catch (error) {
          const code =
            typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
          if (!HARMLESS.has(code)) throw error;
        }
        this.steps++;
      }
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  private pick(random: SeededRandom): Step {
    let at = random.below(this.total);
    for (const [weight, step] of STEPS) {
      if (at < weight) return step;
      at -= weight;
    }
    return transfer;
  }
}
