/** Classes of requests, in which order they are served, and what is refused instead of being delayed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTenantId } from "../../src/base/ids.ts";
import { PageClass } from "../../src/base/page-api/page-model.ts";
import { GrpcCode, GrpcError } from "../../src/pageserver/service/grpc/grpc-status.ts";
import { RateLimit } from "../../src/pageserver/service/grpc/rate-limit.ts";
import { type Lane, RequestScheduler, laneOf } from "../../src/pageserver/service/grpc/request-scheduler.ts";

const { signal } = new AbortController();

function isSlowDown(error: unknown): boolean {
  return error instanceof GrpcError && error.status === GrpcCode.ResourceExhausted;
}

/** Requests that end when they are told to, and who began in which order. */
class Crowd {
  readonly scheduler: RequestScheduler;
  readonly order: string[] = [];
  private readonly doors: (() => void)[] = [];

  constructor(running: number, waiting = 100) {
    this.scheduler = new RequestScheduler({ running, waiting });
  }

  async come(lane: Lane, name: string): Promise<void> {
    await this.scheduler.run(lane, signal, async () => {
      this.order.push(name);
      await new Promise<void>((resolve) => {
        this.doors.push(resolve);
      });
    });
  }

  /** Ends those that run, and those that begin then, until nobody is left. */
  async letAllGo(all: Promise<unknown>): Promise<void> {
    let left = true;
    void all.finally(() => (left = false));
    while (left) {
      for (const open of this.doors.splice(0)) open();
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
    }
    await all;
  }
}

void test("normal requests go first, then prefetch, then background", async () => {
  const crowd = new Crowd(1);
  const all = Promise.all([
    crowd.come("background", "b1"),
    crowd.come("prefetch", "p1"),
    crowd.come("normal", "n1"),
    crowd.come("background", "b2"),
    crowd.come("prefetch", "p2"),
    crowd.come("normal", "n2"),
    crowd.come("normal", "n3"),
  ]);
  await crowd.letAllGo(all);
  assert.deepEqual(crowd.order, ["n1", "n2", "n3", "p1", "p2", "b1", "b2"]);
});

void test("nobody waits for ever", async () => {
  const crowd = new Crowd(1);
  const all = [crowd.come("normal", "first"), crowd.come("background", "background")];
  for (let i = 0; i < 50; i++) all.push(crowd.come("normal", `n${i}`));
  await crowd.letAllGo(Promise.all(all));
  const at = crowd.order.indexOf("background");
  assert.ok(at > 10 && at < 20, String(at));
});

void test("no more run at a time than may", async () => {
  const crowd = new Crowd(3);
  const all = Promise.all(Array.from({ length: 10 }, (_, i) => crowd.come("normal", `n${i}`)));
  assert.equal(crowd.order.length, 3);
  await crowd.letAllGo(all);
  assert.equal(crowd.order.length, 10);
});

void test("a queue that is full refuses at once", async () => {
  const crowd = new Crowd(1, 2);
  const all = Promise.all([1, 2, 3].map((i) => crowd.come("normal", `n${i}`)));
  await assert.rejects(crowd.come("normal", "too many"), isSlowDown);
  // The other classes have queues of their own.
  const other = crowd.come("prefetch", "p");
  await crowd.letAllGo(Promise.all([all, other]));
  assert.deepEqual(crowd.order, ["n1", "n2", "n3", "p"]);
});

void test("who has gone away takes nobody's place", async () => {
  const crowd = new Crowd(1);
  const first = crowd.come("normal", "first");
  const gone = new AbortController();
  const waiting = crowd.scheduler.run("normal", gone.signal, async () => crowd.order.push("gone"));
  const last = crowd.come("normal", "last");
  gone.abort(new Error("gone"));
  const refused = assert.rejects(waiting, /gone/);
  await crowd.letAllGo(Promise.all([first, last]));
  await refused;
  assert.deepEqual(crowd.order, ["first", "last"]);
});

void test("a failure frees the place", async () => {
  const scheduler = new RequestScheduler({ running: 1, waiting: 1 });
  await assert.rejects(
    scheduler.run("normal", signal, () => Promise.reject(new Error("no"))),
    /no/,
  );
  assert.equal(await scheduler.run("background", signal, async () => 5), 5);
});

void test("classes on the wire", () => {
  assert.deepEqual(
    [0, 1, 2, 3].map((value) => laneOf(value as PageClass)),
    ["normal", "normal", "prefetch", "background"],
  );
});

void test("the rate of a tenant", () => {
  let now = 0;
  const limit = new RateLimit(100, () => now);
  const [a, b] = [parseTenantId("a".repeat(32)), parseTenantId("b".repeat(32))];
  limit.take(a, 32);
  limit.take(a, 32);
  limit.take(a, 32);
  // 4 are left: enough to begin with.
  limit.take(a, 32);
  assert.throws(() => limit.take(a, 1), isSlowDown);
  limit.take(b, 32);
  now = 270;
  assert.throws(() => limit.take(a, 1), isSlowDown);
  now = 300;
  limit.take(a, 1);
  now = 100_000;
  for (let i = 0; i < 4; i++) limit.take(a, 25);
  assert.throws(() => limit.take(a, 1), isSlowDown);
  const none = new RateLimit(0, () => now);
  for (let i = 0; i < 100; i++) none.take(a, 1_000_000);
});
