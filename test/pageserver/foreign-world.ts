/**
 * A pageserver program with two tenants that have data: one whose keys somebody holds, and one that is none of his
 * business. Everything that the second one has by name is a secret, and its places in an answer can be found.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";
import { parseTenantId } from "../../src/base/ids.ts";
import { makeKeyPair } from "../../src/client/jwt.ts";
import { UserClient } from "../../src/client/users.ts";
import { type LibpqClient, connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { httpOnce } from "../support/http-once.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { Child, configure, readJson } from "./child.ts";
import { TENANT, TOKEN, TempDirectory } from "./harness.ts";
import { clientOf, extract, importMain, startWriter } from "./real-compute.ts";

export const OWN = TENANT;
export const FOREIGN = "b".repeat(32);
/** A tenant that there is not: what is said of it must be what is said of the foreign one. */
export const NOBODY = "c".repeat(32);

/** What a request can name. */
export interface Target {
  readonly tenant: string;
  readonly timeline: string;
  readonly branch: string;
  readonly layer: string;
  readonly lease: string;
  readonly slot: string;
  readonly epoch: string;
  readonly lsn: string;
  readonly pastLsn: string;
}

/** Of the same form, and nowhere to be found. */
const MADE_UP: Target = {
  tenant: NOBODY,
  timeline: "e".repeat(32),
  branch: "made-up",
  layer: "0-0.made-up",
  lease: "made-up-lease",
  slot: "made_up_slot",
  epoch: "d".repeat(32),
  lsn: "0/ABCDEF8",
  pastLsn: "0/ABCDEF0",
};

export interface Door {
  readonly name: string;
  /** For HTTP and gRPC. */
  readonly authorization: string;
  /** For libpq. */
  readonly user: string;
  readonly password: string;
}

type Fields = Readonly<Record<string, unknown>>;

export class ForeignWorld implements AsyncDisposable {
  readonly url: string;
  readonly grpcAddress: string;
  readonly keys: ReturnType<typeof makeKeyPair>;
  readonly foreign: Target;
  readonly madeUp = MADE_UP;
  readonly ownTimeline: string;
  private readonly libpqPort: number;
  private readonly secrets: readonly string[];
  private readonly child: Child;
  private readonly stack: AsyncDisposableStack;

  private constructor(
    site: Site,
    found: { foreign: Target; ownTimeline: string; secrets: readonly string[] },
    stack: AsyncDisposableStack,
  ) {
    ({ url: this.url, grpcAddress: this.grpcAddress, libpqPort: this.libpqPort } = site);
    ({ keys: this.keys, child: this.child } = site);
    ({ foreign: this.foreign, ownTimeline: this.ownTimeline, secrets: this.secrets } = found);
    this.stack = stack;
  }

  static async start(): Promise<ForeignWorld> {
    await using stack = new AsyncDisposableStack();
    const site = await startSite(stack);
    const own = await importMain(clientOf(site.url));
    const { foreign, secrets } = await fillForeign(site, stack);
    const users = new UserClient({ baseUrl: site.url, token: TOKEN });
    const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
    await users.add({ name: "alice", password: "alice-password", tenants: [parseTenantId(OWN)] }, random);
    return new ForeignWorld(site, { foreign, ownTimeline: own, secrets }, stack.move());
  }

  /** The own tenant, and in it what only the other one has. */
  own(target: Target): Target {
    return { ...target, tenant: OWN };
  }

  /** Throws if an answer tells something of the foreign tenant that the request did not name already. */
  checkSilent(answer: string, asked: string, what: string): void {
    const text = answer.toLowerCase();
    for (const secret of this.secrets) {
      if (asked.toLowerCase().includes(secret)) continue;
      assert.ok(!text.includes(secret), `${what}: the answer tells ${secret}: ${answer.slice(0, 2000)}`);
    }
  }

  /** With the parts of the target replaced, so that answers about different ones can be compared. */
  normalized(answer: string, target: Target): string {
    let text = answer;
    for (const [name, value] of Object.entries(target)) text = text.replaceAll(value, `<${name}>`);
    return text.replaceAll(/^date: .*$/gm, "");
  }

  /** Where other pageservers reach it. */
  get origin(): Readonly<Record<string, string | number>> {
    return { host: "127.0.0.1", port: this.libpqPort, sslmode: "disable", connect_timeout_ms: 30_000 };
  }

  libpq({ user, password }: Pick<Door, "user" | "password">): Promise<LibpqClient> {
    const secret = encodeURIComponent(password);
    const uri = `postgresql://${user}:${secret}@127.0.0.1:${this.libpqPort}?sslmode=disable`;
    return connectLibpq(parseLibpqUri(uri));
  }

  /** Throws what the server says. */
  replication(door: Pick<Door, "user" | "password">, options: string): Promise<Client> {
    return connectReplication(this.libpqPort, door, options);
  }

  /** Everything of the foreign tenant that a request could change. */
  async state(): Promise<unknown> {
    const get = async (path: string): Promise<unknown> => ask(this.url, "GET", path);
    const t = `/v1/tenant/${FOREIGN}`;
    const details = await get(t);
    const timelines = (await get(`${t}/timeline`)) as Fields[];
    return {
      tenants: ((await get("/v1/tenant")) as Fields[]).map(({ id }) => id),
      details,
      timelines: timelines.map(({ timeline_id: id, branches, last_record_lsn: lsn }) => [id, branches, lsn]),
      branches: ((await get(`${t}/branch`)) as { branches: Fields[] }).branches.map(
        ({ name, timeline_id: id, writer }) => [name, id, (writer as Fields | null)?.["epoch"]],
      ),
      config: await get(`${t}/config`),
      leases: await get(`${t}/timeline/${this.foreign.timeline}/lease`),
      layers: (
        (await get(`${t}/timeline/${this.foreign.timeline}/layer`)) as { historic_layers: Fields[] }
      ).historic_layers.map(({ layer_file_name: name }) => name),
      ownBranches: ((await get(`/v1/tenant/${OWN}/branch`)) as { branches: Fields[] }).branches.map(
        ({ name }) => name,
      ),
      users: await get("/v1/user"),
    };
  }

  get log(): string {
    return this.child.log;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

interface Site {
  readonly url: string;
  readonly libpqPort: number;
  readonly grpcAddress: string;
  readonly keys: ReturnType<typeof makeKeyPair>;
  readonly child: Child;
}

async function startSite(stack: AsyncDisposableStack): Promise<Site> {
  const directory = stack.use(new TempDirectory());
  const keys = makeKeyPair();
  writeFileSync(join(directory.path, "key.pem"), keys.publicPem);
  const lines = [
    'jwt_public_key = "key.pem"',
    'listen_libpq = "127.0.0.1:0"',
    'listen_grpc = "127.0.0.1:0"',
    "compaction_period = 0",
    "gc_period = 0",
  ];
  const child = stack.use(new Child("real-pageserver.ts", configure(directory, `${lines.join("\n")}\n`)));
  const url = await child.ready();
  const pidFile = readJson(join(directory.path, "pageserver.pid"));
  const libpqPort = Number(String(pidFile?.["listen_libpq"]).split(":")[1]);
  return { url, libpqPort, grpcAddress: String(pidFile?.["listen_grpc"]), keys, child };
}

async function connectReplication(
  port: number,
  { user, password }: Pick<Door, "user" | "password">,
  options: string,
): Promise<Client> {
  const settings = { host: "127.0.0.1", port, database: "replication", replication: "true" };
  const client = new Client({ ...settings, user, password, options });
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

/** A request of whoever may do everything. */
export async function ask(url: string, method: string, path: string, body?: unknown): Promise<unknown> {
  const { status, bytes } = await httpOnce(url + path, {
    method,
    headers: { authorization: `Bearer ${TOKEN}` },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = bytes.toString();
  assert.ok(status < 300, `${method} ${path}: ${status} ${text}`);
  return JSON.parse(text);
}

/** Stops the compute, so that from then on nothing changes by itself. Its right to write stays. */
async function rest(url: string, compute: TestPostgres, tenantPath: string): Promise<void> {
  await compute.stop();
  const deadline = performance.now() + 60_000;
  for (;;) {
    const main = (await ask(url, "GET", `${tenantPath}/branch/main`)) as { writer: Fields };
    if (main.writer["state"] !== "streaming") return;
    assert.ok(performance.now() < deadline, JSON.stringify(main));
    await sleep(20);
  }
}

/** Two branches, rows, layers, a lease, a replication slot, and a compute with the right to write. */
async function fillForeign(
  site: Site,
  stack: AsyncDisposableStack,
): Promise<{ foreign: Target; secrets: readonly string[] }> {
  const client = clientOf(site.url, FOREIGN);
  const timeline = await importMain(client);
  const compute: TestPostgres = stack.use(await extract(client, timeline, { readOnly: false }));
  await startWriter(client, timeline, "secret-writer", compute);
  await compute.query("create table secret_table (v text)");
  await compute.query("insert into secret_table select 'secret-row-' || i from generate_series(1, 2000) i");
  const pastLsn = await compute.value("select pg_current_wal_flush_lsn()::text");
  await compute.query("insert into secret_table values ('secret-row-last')");
  const t = `/v1/tenant/${FOREIGN}`;
  const tl = `${t}/timeline/${timeline}`;
  // Synchronous replication sees to it that the last row is there.
  const dev = (await ask(site.url, "POST", `${t}/branch`, {
    name: "secret-branch",
    point: { branch: "main" },
  })) as Fields;
  await rest(site.url, compute, t);
  await ask(site.url, "PUT", `${tl}/checkpoint`);
  const info = (await ask(site.url, "GET", tl)) as Fields;
  const lsn = String(info["last_record_lsn"]);
  await ask(site.url, "POST", `${tl}/lease`, { name: "secret-lease", lsn: pastLsn, duration_ms: 3_600_000 });
  const neon = { user: "neon", password: TOKEN };
  const slots = await connectReplication(site.libpqPort, neon, `-c tenant_id=${FOREIGN}`);
  await slots.query("CREATE_REPLICATION_SLOT secret_slot PHYSICAL");
  await slots.end();
  const layers = (await ask(site.url, "GET", `${tl}/layer`)) as { historic_layers: Fields[] };
  const names = layers.historic_layers.map(({ layer_file_name: name }) => String(name));
  const branches = (await ask(site.url, "GET", `${t}/branch`)) as { branches: Fields[] };
  const main = branches.branches.find(({ name }) => name === "main");
  const epoch = String((main?.["writer"] as Fields | undefined)?.["epoch"]);
  const details = (await ask(site.url, "GET", t)) as Fields;
  const foreign: Target = {
    tenant: FOREIGN,
    timeline,
    branch: "secret-branch",
    layer: names[0] ?? "",
    lease: "secret-lease",
    slot: "secret_slot",
    epoch,
    lsn,
    pastLsn,
  };
  const secrets = [
    ...Object.values(foreign),
    ...names,
    String(dev["timeline_id"]),
    String(details["system_id"]),
    "secret",
  ].map((secret) => secret.toLowerCase());
  assert.ok(
    secrets.every((secret) => secret.length > 5 && secret !== "undefined"),
    secrets.join(),
  );
  return { foreign, secrets };
}
