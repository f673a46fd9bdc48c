/** A pageserver in this process, over a temporary directory and fake timelines, and a way to talk to it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import type { Files } from "../../src/base/seams.ts";
import type { PageserverOptions } from "../../src/pageserver/options.ts";
import { Pageserver, systemClock, systemRandom } from "../../src/pageserver/server.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { FakeTimelines } from "./fake-timelines.ts";

export const TOKEN = "correct-horse-battery-staple";
export const TENANT = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  /** Parsed; undefined if it is no JSON. */
  readonly body: Record<string, unknown> | undefined;
}

export class TempDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "neon-service-"));

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export class Harness implements AsyncDisposable {
  readonly server: Pageserver;
  readonly timelines: FakeTimelines;
  /** Lines of the log with level warn or above. */
  readonly complaints: Record<string, unknown>[];
  private readonly own: TempDirectory | undefined;

  private constructor(
    server: Pageserver,
    timelines: FakeTimelines,
    complaints: Record<string, unknown>[],
    own: TempDirectory | undefined,
  ) {
    this.server = server;
    this.timelines = timelines;
    this.complaints = complaints;
    this.own = own;
  }

  /** Over `workdir`, or over a directory of its own that goes away with it. */
  static async start(
    options: {
      workdir?: string;
      token?: string;
      files?: Files;
      tls?: PageserverOptions["tls"];
      jwtPublicKey?: string;
    } = {},
  ): Promise<Harness> {
    const own = options.workdir === undefined ? new TempDirectory() : undefined;
    const complaints: Record<string, unknown>[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => complaints.push(JSON.parse(line)) });
    const files = options.files ?? new RealFiles();
    const timelines = new FakeTimelines(files);
    const settings: PageserverOptions = {
      workdir: options.workdir ?? own?.path ?? "",
      id: 1,
      listen: { host: "127.0.0.1", port: 0 },
      authToken: options.token === "" ? undefined : (options.token ?? TOKEN),
      listenLibpq: { host: "127.0.0.1", port: 0 },
      listenGrpc: { host: "127.0.0.1", port: 0 },
      pageRateLimit: 0,
      tls: options.tls,
      jwtPublicKey: options.jwtPublicKey,
      insecure: false,
      checkpointDistanceBytes: 1,
      checkpointTimeoutMs: 1,
      cacheBytes: 1,
      memoryLimitBytes: 2 ** 30,
      verifyRedo: false,
      logLevel: "warn",
      maintenance: {
        pitrIntervalMs: 0,
        gcHorizonBytes: 0,
        gcPeriodMs: 0,
        compactionPeriodMs: 0,
        flushedLayersMin: 8,
      },
    };
    try {
      const server = await Pageserver.start(settings, {
        files,
        clock: systemClock,
        random: systemRandom,
        log,
        timelines,
      });
      return new Harness(server, timelines, complaints, own);
    } catch (error) {
      own?.[Symbol.dispose]();
      throw error;
    }
  }

  /** With the tenant TENANT and the branch `main` in it. */
  static async withMain(
    options: { workdir?: string; files?: Files; jwtPublicKey?: string } = {},
  ): Promise<Harness> {
    const harness = await Harness.start(options);
    await harness.ok("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
    await harness.ok("POST", `/v1/tenant/${TENANT}/import?branch=main`, "a tar");
    return harness;
  }

  get url(): string {
    return `http://127.0.0.1:${this.server.port}`;
  }

  /** A body that is no string is sent as JSON. */
  async call(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = { authorization: `Bearer ${TOKEN}` },
  ): Promise<Reply> {
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    const response = await fetch(this.url + path, {
      method,
      headers,
      ...(text === undefined ? {} : { body: text }),
    });
    const answer = await response.text();
    return { status: response.status, headers: response.headers, body: parsed(answer) };
  }

  /** The same, for what must work. */
  async ok(method: string, path: string, body?: unknown): Promise<Record<string, unknown>> {
    const reply = await this.call(method, path, body);
    if (reply.status >= 300 || !reply.body) {
      throw new Error(`${method} ${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
    }
    return reply.body;
  }

  /** Path within the tenant TENANT. */
  t(rest: string): string {
    return `/v1/tenant/${TENANT}${rest}`;
  }

  async branch(name: string): Promise<Record<string, unknown>> {
    return this.ok("GET", this.t(`/branch/${encodeURIComponent(name)}`));
  }

  async timelineIdOf(name: string): Promise<string> {
    return String((await this.branch(name))["timeline_id"]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop();
    this.own?.[Symbol.dispose]();
  }
}

/** The error in a reply: code and message. */
export function errorOf(reply: Reply): { code: unknown; message: string; hint: unknown; data: unknown } {
  const error = reply.body?.["error"];
  if (typeof error !== "object" || error === null)
    throw new Error(`no error in ${JSON.stringify(reply.body)}`);
  const { code, message, hint, data } = error as Record<string, unknown>;
  return { code, message: String(message), hint, data };
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
