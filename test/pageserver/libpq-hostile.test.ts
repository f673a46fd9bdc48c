/**
 * Clients of the libpq service that mean no good, or are broken, against the program with real data: it stays, serves others
 * meanwhile, keeps its memory, and gives nothing to those who may not have it.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type Socket, connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { ByteWriter } from "../../src/base/bytes.ts";
import { NeonError } from "../../src/base/errors.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import { UserClient } from "../../src/client/users.ts";
import { ClientAuth } from "../../src/pgwire/auth.ts";
import { FrameConnection } from "../../src/pgwire/frame-connection.ts";
import { encodeCopyData, encodeQuery, encodeStartup } from "../../src/pgwire/frontend.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { SeededRandom } from "../support/random.ts";
import { Child, configure, readJson } from "./child.ts";
import { TENANT, TOKEN, TempDirectory } from "./harness.ts";
import { clientOf, importMain } from "./real-compute.ts";

const OTHER = "b".repeat(32);
const MIB = 2 ** 20;
const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };

class Site implements AsyncDisposable {
  readonly port: number;
  readonly url: string;
  readonly timeline: string;
  readonly child: Child;
  private readonly directory: TempDirectory;

  private constructor(
    child: Child,
    directory: TempDirectory,
    found: { port: number; url: string; timeline: string },
  ) {
    this.child = child;
    this.directory = directory;
    this.port = found.port;
    this.url = found.url;
    this.timeline = found.timeline;
  }

  static async start(): Promise<Site> {
    const directory = new TempDirectory();
    const child = new Child("real-pageserver.ts", configure(directory, 'listen_libpq = "127.0.0.1:0"\n'));
    try {
      const url = await child.ready();
      const timeline = await importMain(clientOf(url));
      const address = String(readJson(join(directory.path, "pageserver.pid"))?.["listen_libpq"]);
      return new Site(child, directory, { port: Number(address.split(":")[1]), url, timeline });
    } catch (error) {
      await child[Symbol.asyncDispose]();
      throw error;
    }
  }

  uri(user = "neon", password = TOKEN): string {
    return `postgresql://${user}:${password}@127.0.0.1:${this.port}?sslmode=disable`;
  }

  async raw(): Promise<Socket> {
    const socket = connect({ host: "127.0.0.1", port: this.port });
    socket.on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  }

  /** A client that has been let in; what the server says to it goes nowhere. Throws what the server says instead. */
  async letIn(parameters: Record<string, string> = {}, user = "neon", password = TOKEN): Promise<Socket> {
    const socket = await this.raw();
    const connection = new FrameConnection(socket, { bodySizeMax: MIB, peer: "server" });
    await connection.write(encodeStartup({ user, ...parameters }));
    const auth = new ClientAuth({ user, password }, random, { isPrivate: true });
    for (;;) {
      const frame = await connection.next(60_000);
      assert.ok(frame, "the server goes on");
      const type = String.fromCharCode(frame.type);
      if (type === "E") throw new Error(Buffer.from(frame.body).toString("latin1"));
      if (type === "Z") break;
      const answer = type === "R" ? await auth.answer(frame.body) : undefined;
      if (answer) await connection.write(answer);
    }
    socket.removeAllListeners("data").resume();
    return socket;
  }

  /** In bytes: now, or the most that it ever was. */
  memory(field: "VmRSS" | "VmHWM"): number {
    const text = readFileSync(`/proc/${this.child.pid}/status`, "utf8");
    return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(text)?.[1]) * 1024;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child[Symbol.asyncDispose]();
    this.directory[Symbol.dispose]();
  }
}

/** A page of pg_class' file map of template1, as the page stream gives it; always the same. */
async function readPage(site: Site): Promise<string> {
  await using client = await connectLibpq(parseLibpqUri(site.uri()));
  const channel = await client.copyBoth(`pagestream_v3 ${TENANT} ${site.timeline}`);
  await channel.send(getPage(1n, 1259));
  const answer = await channel.receive();
  await channel.end();
  assert.equal(await channel.receive(), undefined);
  assert.equal(answer?.[0], 102);
  return Buffer.from(answer).toString("base64");
}

function getPage(id: bigint, relation: number, block = 0): Uint8Array {
  const writer = new ByteWriter(42)
    .u8(2)
    .u64be(id)
    .u64be(2n ** 64n - 1n)
    .u64be(8n);
  return writer.u32be(1663).u32be(1).u32be(relation).u8(0).u32be(block).finish();
}

const WORDS =
  "START_REPLICATION SLOT PHYSICAL LOGICAL 0/0 0/1500000 FFFFFFFF/FFFFFFFF TIMELINE 1 2 99999999999 IDENTIFY_SYSTEM SHOW wal_segment_size " +
  "CREATE_REPLICATION_SLOT x TEMPORARY RESERVE_WAL READ_REPLICATION_SLOT DROP_REPLICATION_SLOT WAIT BASE_BACKUP LABEL 'l' ( ) , \" ' MANIFEST " +
  "'yes' TARGET TIMELINE_HISTORY SELECT pg_catalog.set_config ; status show branch_list fullbackup import wal";

class Noise {
  private readonly random: SeededRandom;
  private readonly site: Site;

  constructor(random: SeededRandom, site: Site) {
    this.random = random;
    this.site = site;
  }

  bytes(max: number): Uint8Array {
    return Uint8Array.from({ length: this.random.below(max) }, () => this.random.below(256));
  }

  /** Some bytes are others, some are missing, or a length is a lie. */
  spoiled(bytes: Uint8Array): Uint8Array {
    const { random } = this;
    const copy = Buffer.from(bytes);
    switch (random.below(4)) {
      case 0:
        for (let i = random.below(4); i >= 0; i--) copy[random.below(copy.length)] = random.below(256);
        return copy;
      case 1:
        return copy.subarray(0, random.below(copy.length));
      case 2:
        if (copy.length > 5) copy.writeUInt32BE(random.u32(), 1);
        return copy;
      default:
        return copy;
    }
  }

  sentence(): string {
    const words = WORDS.split(" ");
    return Array.from({ length: 1 + this.random.below(8) }, () => this.random.pick(words)).join(" ");
  }

  /** One client, from its beginning to its end. */
  async client(): Promise<void> {
    const { random, site } = this;
    if (random.chance(0.2)) {
      const socket = await site.raw();
      socket.write(this.spoiled(encodeStartup({ user: "neon", replication: "true" })));
      socket.end(this.bytes(100));
      if (!socket.closed) await once(socket.resume(), "close");
      return;
    }
    const isReplication = random.chance(0.5);
    const socket = await site.letIn(isReplication ? { replication: "true" } : {});
    for (const message of isReplication ? this.replication() : this.commands()) socket.write(message);
    if (random.chance(0.5)) socket.destroy();
    else socket.end();
    if (!socket.closed) await once(socket, "close");
  }

  private *commands(): Generator<Uint8Array> {
    const { random, site } = this;
    const where = `${TENANT} ${site.timeline}`;
    const command = random.pick([
      `pagestream_v2 ${where}`,
      `pagestream_v3 ${where}`,
      `fullbackup ${where} --gzip`,
      `fullbackup ${where} latest --replica`,
      `import wal ${where} 0/1 FFFFFFF/0`,
      `import basebackup ${TENANT} ${OTHER} 0/1 0/2`,
      this.sentence(),
    ]);
    yield encodeQuery(command);
    for (let i = random.below(40); i > 0; i--) {
      const request = random.chance(0.7)
        ? getPage(BigInt(i), random.pick([1259, 1, 0, 4_000_000_000]), random.u32())
        : this.bytes(60);
      yield random.chance(0.8)
        ? encodeCopyData(this.spoiled(request))
        : this.spoiled(encodeCopyData(request));
    }
  }

  private *replication(): Generator<Uint8Array> {
    const { random } = this;
    for (let i = random.below(6); i > 0; i--) yield encodeQuery(this.sentence());
    yield encodeQuery(
      `START_REPLICATION ${random.pick(["0/1000000", "0/1400000", "0/1500000", "5/0"])} TIMELINE 1`,
    );
    for (let i = random.below(20); i > 0; i--) {
      const status = new ByteWriter(34)
        .u8(random.pick([0x72, 0x68, 0x00]))
        .u64be(BigInt(random.u32()))
        .zeros(25)
        .finish();
      yield random.chance(0.8) ? encodeCopyData(this.spoiled(status)) : this.spoiled(encodeCopyData(status));
    }
  }
}

test("noise, half-open connections and 1,000 idle clients", { timeout: 300_000 }, async (t) => {
  await using site = await Site.start();
  const seeded = SeededRandom.forTest(t);
  const page = await readPage(site);
  const halves = await Promise.all(Array.from({ length: 100 }, () => site.raw()));
  for (const [index, socket] of halves.entries())
    socket.resume().write(Buffer.from("0000002a0003", "hex").subarray(0, index % 7));
  const idle: Socket[] = [];
  for (let i = 0; i < 100; i++)
    idle.push(...(await Promise.all(Array.from({ length: 10 }, () => site.letIn()))));
  const before = site.memory("VmRSS");
  const noise = new Noise(seeded, site);
  for (let round = 0; round < 60; round++) {
    await Promise.all(Array.from({ length: 4 }, () => noise.client()));
    if (round % 10 === 0) assert.equal(await readPage(site), page, `round ${round}`);
  }
  const grown = site.memory("VmHWM") - before;
  t.diagnostic(
    `${Math.round(before / MIB)} MiB with 1,100 clients, ${Math.round(grown / MIB)} MiB more at most`,
  );
  assert.ok(grown < 500 * MIB, `${grown} bytes more`);
  // Those who said nothing are still there, and are served.
  assert.ok(idle.every((socket) => !socket.closed));
  assert.equal(await readPage(site), page);
  for (const socket of [...idle, ...halves]) socket.destroy();
  assert.doesNotMatch(site.child.log, /AssertionError|TypeError|RangeError|"level":60/);
});

test("replication is for those who may have the branch", { timeout: 300_000 }, async () => {
  await using site = await Site.start();
  const users = new UserClient({ baseUrl: site.url, token: TOKEN });
  await users.add({ name: "bob", password: "bob-password", tenants: [parseTenantId(OTHER)] }, random);
  const asked = async (parameters: Record<string, string>, user?: string): Promise<string> => {
    try {
      const socket = await site.letIn(
        { replication: "true", ...parameters },
        user,
        user && `${user}-password`,
      );
      socket.destroy();
      return "let in";
    } catch (error) {
      return String(error);
    }
  };
  const named = (options: string, user?: string): Promise<string> => asked({ options }, user);
  // Whether the tenant exists or not.
  for (const tenant of [TENANT, "c".repeat(32)]) {
    assert.match(await named(`-c tenant_id=${tenant}`, "bob"), /42501.*may not work with tenant/s);
    assert.match(await asked({ database: `${tenant}/main` }, "bob"), /42501/);
  }
  assert.match(await named("-c branch=main", "bob"), /3D000.*there is no tenant.*options=/s);
  assert.match(await named(`-c tenant_id=${OTHER}`, "bob"), /42704/);
  assert.match(await named("-c branch=nothing"), /branch "nothing"/);
  assert.match(await named("-c timeline_id=xyz"), /42601/);
  assert.match(await named(`-c timeline_id=${OTHER}`), /42704/);
  assert.match(await named("-c tenant_id=xyz"), /42601/);
  for (const good of [
    "",
    "-c branch=main",
    `-c tenant_id=${TENANT} -c timeline_id=${site.timeline}`,
    `--tenant-id=${TENANT} -cbranch=main -c work_mem=1MB`,
    `-c neon.tenant_id=${TENANT}`,
  ])
    assert.equal(await named(good), "let in", good);
  for (const database of ["replication", "main", TENANT, `${TENANT}/main`])
    assert.equal(await asked({ database }), "let in");
  // Commands of other connections ask for the tenant as they do there.
  const client = await site.letIn({ replication: "database" });
  client.destroy();
  await assert.rejects(connectLibpq(parseLibpqUri(site.uri("bob", "wrong"))), NeonError);
});
