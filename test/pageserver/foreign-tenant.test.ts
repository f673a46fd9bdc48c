/**
 * Whoever has keys to one tenant gets nothing of another one: not by any route, command, replication command or method of a
 * real pageserver with real data, not by a name and not by a difference between what exists and what does not. Nor does
 * anybody by what only looks like a key.
 */
import assert from "node:assert/strict";
import { request as rawRequest } from "node:http";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { PAGE_METHODS, PAGE_SERVICE, type PageMethod } from "../../src/base/page-api/page-model.ts";
import { OPERATIONS } from "../../src/pageserver/service/openapi/operations.ts";
import { REPLICATION_COMMANDS } from "../../src/pageserver/service/libpq/replication-session.ts";
import { httpOnce } from "../support/http-once.ts";
import { clientFor, listServices } from "../support/grpc-reflection.ts";
import { RawClient, frame } from "../support/grpc-raw.ts";
import {
  COMMANDS,
  type CommandRequest,
  METHODS,
  REPLICATION_REQUESTS,
  WITHOUT_TENANT,
  requestFor,
} from "./foreign-requests.ts";
import { type Door, FOREIGN, ForeignWorld, OWN, type Target } from "./foreign-world.ts";
import { transfers } from "./foreign-transfer.ts";
import { MASTER, badDoors, ownDoors, tenantDoor } from "./foreign-tokens.ts";

void test("the keys of one tenant open nothing of another", { timeout: 600_000 }, async (t) => {
  await using world = await ForeignWorld.start();
  const before = await world.state();
  const doors = ownDoors(world.keys);
  const bad = badDoors(world.keys, FOREIGN);
  for (const door of doors) {
    await t.test(`${door.name}: every route`, () => everyRoute(world, door));
    await t.test(`${door.name}: every command`, () => everyCommand(world, door));
    await t.test(`${door.name}: replication`, () => replication(world, door));
    if (door.authorization.startsWith("Bearer")) {
      await t.test(`${door.name}: every method`, () => everyMethod(world, door));
    }
  }
  await t.test("paths that try to climb", () => climbing(world, doors));
  await t.test("what is no key opens nothing", () => noKeys(world, bad));
  await t.test("push and pull by another pageserver", () => transfers(world, doors));
  await t.test("nothing has changed", async () => assert.deepEqual(await world.state(), before));
  // The refusals mean something only if the same requests get through with the right key.
  await t.test("the same requests with the tenant's own key", () => controls(world));
  assert.doesNotMatch(world.log, /AssertionError|TypeError|RangeError|"level":60/);
});

interface Told {
  readonly status: number;
  readonly text: string;
}

async function http(world: ForeignWorld, door: Door, route: string, target: Target): Promise<Told> {
  const { method, path, body } = requestFor(route, target);
  const answer = await httpOnce(world.url + path, {
    method,
    headers: { authorization: door.authorization },
    body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
  });
  const headers = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  return { status: answer.status, text: `${headers}\n${answer.bytes.toString("latin1")}` };
}

/** What a request says, for telling what it gave away itself. */
function saidBy(route: string, target: Target): string {
  return JSON.stringify(requestFor(route, target)) + decodeURIComponent(requestFor(route, target).path);
}

/** The same is answered for what the foreign tenant has and for what nobody has, and nothing else. */
async function sameAnswer(
  world: ForeignWorld,
  door: Door,
  route: string,
  [real, madeUp]: readonly [Target, Target],
): Promise<Told> {
  const told = await http(world, door, route, real);
  world.checkSilent(told.text, saidBy(route, real), `${door.name}: ${route}`);
  const other = await http(world, door, route, madeUp);
  const [one, two] = [world.normalized(told.text, real), world.normalized(other.text, madeUp)];
  assert.equal(told.status, other.status, `${route}: ${one} against ${two}`);
  assert.equal(withoutLength(one), withoutLength(two), route);
  return told;
}

function withoutLength(text: string): string {
  return text.replace(/^content-length: \d+$/m, "");
}

async function everyRoute(world: ForeignWorld, door: Door): Promise<void> {
  const { foreign, madeUp } = world;
  let reached = 0;
  for (const route of Object.keys(OPERATIONS)) {
    const told = await sameAnswer(world, door, route, [foreign, madeUp]);
    const kind = route.includes(":tenant") ? "declined" : WITHOUT_TENANT[route];
    assert.ok(kind, `${route} is new: put into WITHOUT_TENANT what the key to one tenant gets of it`);
    if (kind === "declined") {
      assert.equal(told.status, 403, `${route}: ${told.text}`);
      assert.match(told.text, /"code":"declined"/);
    } else assert.equal(told.status, 200, route);
    if (kind === "own") assert.ok(told.text.includes(OWN) && !told.text.includes(FOREIGN), told.text);
    if (!requestFor(route, foreign).reaches) continue;
    // Within its own tenant, with the names of what the other one has.
    const within = await sameAnswer(world, door, route, [world.own(foreign), world.own(madeUp)]);
    assert.ok(within.status >= 400, `${route}: ${within.text}`);
    reached++;
  }
  assert.ok(reached > 30, String(reached));
}

async function failureOf(work: Promise<unknown>): Promise<NeonError> {
  const error: unknown = await work.then(
    (value) => assert.fail(`let through: ${JSON.stringify(value).slice(0, 500)}`),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof NeonError, String(error));
  return error;
}

function tellAll(error: NeonError): string {
  return `${error.code} ${error.message} ${error.hint ?? ""} ${JSON.stringify(error.data)}`;
}

async function runCommand(
  world: ForeignWorld,
  door: Door,
  { text, copyIn }: CommandRequest,
): Promise<unknown> {
  await using client = await world.libpq(door);
  if (copyIn) return await client.copyIn(text, [Buffer.from("no tar")]);
  return (await client.query(text)).rows;
}

/** Names of all commands, from the process itself. */
async function commandNames(world: ForeignWorld, door: Door): Promise<string[]> {
  const { message } = await failureOf(runCommand(world, door, { text: "nonsense" }));
  return /there are (.*)$/.exec(message)?.[1]?.split(", ") ?? [];
}

async function everyCommand(world: ForeignWorld, door: Door): Promise<void> {
  const { foreign, madeUp } = world;
  assert.deepEqual((await commandNames(world, door)).sort(), Object.keys(COMMANDS).sort());
  for (const [name, make] of Object.entries(COMMANDS)) {
    const command = make(foreign);
    if (command.harmless) {
      world.checkSilent(JSON.stringify(await runCommand(world, door, command)), command.text, name);
      continue;
    }
    const compared = async (real: Target, other: Target): Promise<NeonError> => {
      const [one, two] = [
        await failureOf(runCommand(world, door, make(real))),
        await failureOf(runCommand(world, door, make(other))),
      ];
      world.checkSilent(tellAll(one), make(real).text, name);
      assert.equal(world.normalized(tellAll(one), real), world.normalized(tellAll(two), other), name);
      return one;
    };
    const declined = await compared(foreign, madeUp);
    assert.equal(declined.code, ErrorCode.Declined, `${name}: ${declined.message}`);
    if (command.tenantOnly) continue;
    const within = await compared(world.own(foreign), world.own(madeUp));
    if (command.everything) assert.equal(within.code, ErrorCode.Declined, name);
    else assert.ok(REFUSALS.has(within.code), `${name}: ${tellAll(within)}`);
  }
}

const REFUSALS: ReadonlySet<string> = new Set([ErrorCode.NotFound, ErrorCode.Usage, ErrorCode.Corrupt]);

/** What the server says; the driver's errors have its fields. */
async function serverError(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    (value) => assert.fail(`let through: ${JSON.stringify(value).slice(0, 500)}`),
    (thrown: unknown) => thrown,
  );
  const { code, message, detail, hint } = Object(error);
  return JSON.stringify([code, message, detail, hint]);
}

async function replication(world: ForeignWorld, door: Door): Promise<void> {
  const { foreign, madeUp, ownTimeline } = world;
  const compared = async (options: (target: Target) => string, code: string): Promise<void> => {
    const [one, two] = [
      await serverError(world.replication(door, options(foreign))),
      await serverError(world.replication(door, options(madeUp))),
    ];
    world.checkSilent(one, options(foreign), "replication");
    assert.equal(world.normalized(one, foreign), world.normalized(two, madeUp));
    assert.ok(one.includes(code), one);
  };
  await compared(({ tenant }) => `-c tenant_id=${tenant}`, "42501");
  await compared(({ tenant, timeline }) => `-c tenant_id=${tenant} -c timeline_id=${timeline}`, "42501");
  await compared(({ branch }) => `-c tenant_id=${OWN} -c branch=${branch}`, "42704");
  await compared(({ timeline }) => `-c tenant_id=${OWN} -c timeline_id=${timeline}`, "42704");
  await compared(({ timeline }) => `-c timeline_id=${timeline}`, "42704");
  const ask = async (text: string): Promise<string> => {
    const client = await world.replication(door, `-c tenant_id=${OWN} -c timeline_id=${ownTimeline}`);
    try {
      return JSON.stringify((await client.query(text)).rows);
    } catch (error) {
      return String(error);
    } finally {
      await client.end();
    }
  };
  for (const word of REPLICATION_COMMANDS) {
    const make = REPLICATION_REQUESTS[word];
    const [one, two] = [await ask(make(foreign)), await ask(make(madeUp))];
    world.checkSilent(one, make(foreign), word);
    assert.equal(world.normalized(one, foreign), world.normalized(two, madeUp), word);
  }
  // The other commands are there as well, and as strict; two have names that mean something else here.
  for (const [name, make] of Object.entries(COMMANDS)) {
    const command = make(foreign);
    if (command.harmless) continue;
    const told = await ask(command.text);
    world.checkSilent(told, command.text, name);
    const isOther = ["identify_system", "show"].includes(name);
    assert.match(told, isOther ? /^error/ : /^error.*(may (not )?work with|its own tenants only)/, name);
  }
}

async function methodNames(world: ForeignWorld): Promise<string[]> {
  const services = await listServices(world.grpcAddress);
  const harmless = services.filter((name) => /^grpc\.(health|reflection)\./.test(name));
  assert.deepEqual(
    services.filter((name) => !harmless.includes(name)),
    [PAGE_SERVICE],
  );
  return Object.keys((await clientFor(world.grpcAddress, PAGE_SERVICE)).service);
}

interface Answered {
  readonly code: number | undefined;
  readonly text: string;
}

async function callMethod(
  client: RawClient,
  method: PageMethod,
  target: Target,
  authorization: string,
): Promise<Answered> {
  const headers = {
    authorization,
    "neon-tenant-id": target.tenant,
    "neon-timeline-id": target.timeline,
    "neon-shard-id": "0000",
  };
  const request = METHODS[method](target);
  const call = client.call(`/${PAGE_SERVICE}/${method}`, headers).send(frame(request)).end();
  const { code, details, messages } = await call.result;
  return { code, text: details + messages.map(({ bytes }) => bytes.toString("latin1")).join("") };
}

const Code = { Ok: 0, Invalid: 3, NotFound: 5, Denied: 7, Unauthenticated: 16 } as const;

async function everyMethod(world: ForeignWorld, door: Door): Promise<void> {
  const { foreign, madeUp } = world;
  assert.deepEqual((await methodNames(world)).sort(), [...PAGE_METHODS].sort());
  await using client = await RawClient.connect(Number(world.grpcAddress.split(":")[1]));
  for (const method of PAGE_METHODS) {
    for (const [real, other, code] of [
      [foreign, madeUp, Code.Denied],
      [world.own(foreign), world.own(madeUp), Code.NotFound],
    ] as const) {
      const one = await callMethod(client, method, real, door.authorization);
      const two = await callMethod(client, method, other, door.authorization);
      world.checkSilent(one.text, JSON.stringify(real), method);
      assert.equal(one.code, code, `${method}: ${one.text}`);
      assert.deepEqual(
        [one.code, world.normalized(one.text, real)],
        [two.code, world.normalized(two.text, other)],
        method,
      );
    }
  }
}

/** As it is: other clients put paths in order before they send them. */
function asIs(world: ForeignWorld, door: Door, path: string): Promise<Told> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(world.url);
    const sent = rawRequest(
      { hostname, port, path, headers: { authorization: door.authorization } },
      (answer) => {
        const chunks: Buffer[] = [];
        answer.on("data", (chunk: Buffer) => chunks.push(chunk));
        answer.on("end", () => {
          resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(chunks).toString("latin1") });
        });
      },
    );
    sent.on("error", reject);
    sent.end();
  });
}

async function climbing(world: ForeignWorld, doors: readonly Door[]): Promise<void> {
  const { foreign, ownTimeline } = world;
  const own = `/v1/tenant/${OWN}`;
  const files = `${FOREIGN}%2ftimelines%2f${foreign.timeline}%2f`;
  const paths = [
    `${own}/../${FOREIGN}/branch`,
    `${own}/%2e%2e/${FOREIGN}/branch`,
    `${own}%2f..%2f${FOREIGN}/branch`,
    `/v1/tenant//${FOREIGN}/branch`,
    `/v1/tenant/${OWN},${FOREIGN}/branch`,
    `/v1/tenant/${FOREIGN.toUpperCase()}/branch`,
    `/v1/tenant/%62${FOREIGN.slice(1)}/branch`,
    `/v1//tenant/${FOREIGN}/branch`,
    `//v1/tenant/${FOREIGN}/branch`,
    `${own}/branch?tenant=${FOREIGN}&tenant_id=${FOREIGN}`,
    `${own}/timeline/${ownTimeline}/layer/..%2f..%2f..%2f..%2f${files}metadata.json`,
    `${own}/timeline/${ownTimeline}/layer/..%2f..%2f..%2f..%2f${files}layers%2f${foreign.layer}`,
    `${own}/timeline/..%2f..%2f${files}/layer`,
    `${own}/timeline/${foreign.timeline}/keyspace`,
    `${own}/branch/..%2f..%2f${FOREIGN}%2frefs%2f${foreign.branch}`,
    `${own}/branch/%2e%2e%2f%2e%2e%2f${FOREIGN}%2frefs%2fmain`,
    `/v1/branch/${OWN}/..%2f..%2f${FOREIGN}%2frefs%2f${foreign.branch}`,
    `http://${FOREIGN}/v1/tenant/${FOREIGN}/branch`,
  ];
  for (const door of doors) {
    for (const path of paths) {
      const told = await asIs(world, door, path);
      world.checkSilent(told.text, decodeURIComponent(path), path);
      // A query of one's own route that nobody reads is the only one that may be answered.
      if (path.startsWith(`${own}/branch?`)) assert.ok(!told.text.includes(FOREIGN), told.text);
      else assert.ok(told.status >= 400, `${path}: ${told.status} ${told.text}`);
    }
  }
}

async function noKeys(world: ForeignWorld, bad: readonly Door[]): Promise<void> {
  const { foreign } = world;
  await using client = await RawClient.connect(Number(world.grpcAddress.split(":")[1]));
  for (const door of bad) {
    // Who is somebody, but not for us, is declined; who is nobody is asked for a key.
    const isOther = door.name.startsWith("scope ") && !door.name.endsWith("list");
    for (const route of Object.keys(OPERATIONS)) {
      if (WITHOUT_TENANT[route] === "open") continue;
      const told = await http(world, door, route, foreign);
      assert.equal(told.status, isOther ? 403 : 401, `${door.name}: ${route}: ${told.text}`);
      world.checkSilent(told.text, "", `${door.name}: ${route}`);
    }
    const login = tellAll(await failureOf(world.libpq(door)));
    assert.match(login, /password authentication failed/, door.name);
    world.checkSilent(login, "", door.name);
    const refused = await serverError(world.replication(door, `-c tenant_id=${FOREIGN}`));
    assert.match(refused, /28P01/, door.name);
    world.checkSilent(refused, "", door.name);
    for (const method of PAGE_METHODS) {
      const { code, text } = await callMethod(client, method, foreign, door.authorization);
      const wanted: readonly unknown[] = isOther ? [Code.Denied] : [Code.Unauthenticated, Code.Invalid];
      assert.ok(wanted.includes(code), `${door.name}: ${method}: ${code} ${text}`);
      world.checkSilent(text, "", `${door.name}: ${method}`);
    }
  }
}

/** Deletions come last, of what is deepest first. */
function inOrder(routes: readonly string[]): string[] {
  const depth = (route: string): number => (route.startsWith("DELETE") ? 100 - route.split("/").length : 0);
  return [...routes].sort((a, b) => depth(a) - depth(b));
}

async function controls(world: ForeignWorld): Promise<void> {
  const { foreign } = world;
  const theirs = tenantDoor(world.keys, FOREIGN);
  await using grpc = await RawClient.connect(Number(world.grpcAddress.split(":")[1]));
  for (const method of PAGE_METHODS) {
    const { code, text } = await callMethod(grpc, method, foreign, theirs.authorization);
    assert.equal(code, Code.Ok, `${method}: ${text.slice(0, 500)}`);
  }
  for (const options of [`-c tenant_id=${FOREIGN} -c branch=${foreign.branch}`, "-c branch=main"]) {
    const client = await world.replication(theirs, options);
    await client.end();
  }
  for (const [name, make] of Object.entries(COMMANDS)) {
    const command = make(foreign);
    const door = command.everything ? MASTER : theirs;
    const code = await runCommand(world, door, command).then(
      () => undefined,
      (error: unknown) => (error instanceof NeonError ? error.code : assert.fail(String(error))),
    );
    assert.notEqual(code, ErrorCode.Declined, name);
  }
  for (const route of inOrder(Object.keys(OPERATIONS))) {
    const forAll = WITHOUT_TENANT[route] === "declined" || /POST .*\/(writer|verify)$/.test(route);
    const told = await http(world, forAll ? MASTER : theirs, route, foreign);
    assert.ok(![401, 403].includes(told.status), `${route}: ${told.status} ${told.text.slice(0, 500)}`);
  }
}
