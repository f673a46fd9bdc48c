/**
 * Composition root of the pageserver: takes the working directory, listens, opens the tenants, serves, and stops in
 * the reverse order.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "pino";
import type { Clock, Files, Random } from "../base/seams.ts";
import type { PageserverOptions } from "./options.ts";
import { HttpService } from "./service/http-service.ts";
import { buildRoutes } from "./service/routes.ts";
import type { ServedTimeline, TimelineFactory } from "./timeline/served-timeline.ts";
import { Tenants } from "./timeline/tenants.ts";
import { WorkDirectory } from "./work-directory.ts";

/** How long requests under way may take to finish when the server is stopped. */
const STOP_GRACE_MS = 5000;

export interface PageserverDependencies<T extends ServedTimeline> {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly timelines: TimelineFactory<T>;
}

export const systemClock: Clock = { now: () => Date.now() };
export const systemRandom: Random = { bytes: (count) => new Uint8Array(randomBytes(count)) };

export class Pageserver implements AsyncDisposable {
  private readonly service: HttpService;
  private readonly tenants: AsyncDisposable;
  private readonly directory: WorkDirectory;
  private readonly log: Logger;
  private stopping: Promise<void> | undefined;

  private constructor(service: HttpService, tenants: AsyncDisposable, directory: WorkDirectory, log: Logger) {
    this.service = service;
    this.tenants = tenants;
    this.directory = directory;
    this.log = log;
  }

  /** Returns when it is ready. It answers GET /v1/status as soon as the port is taken, before the tenants are open. */
  static async start<T extends ServedTimeline>(
    options: PageserverOptions,
    dependencies: PageserverDependencies<T>,
  ): Promise<Pageserver> {
    const { log, clock } = dependencies;
    const directory = WorkDirectory.acquire(options.workdir);
    const tenants = new Tenants(join(options.workdir, "tenants"), dependencies);
    const startedAt = new Date(clock.now()).toISOString();
    const version = packageVersion();
    const service = new HttpService(
      { host: options.listen.host, port: options.listen.port, token: options.authToken },
      {
        router: buildRoutes(tenants),
        log,
        status: () => ({
          pid: process.pid,
          version,
          started_at: startedAt,
          repository: options.workdir,
        }),
      },
    );
    const server = new Pageserver(service, tenants, directory, log);
    try {
      await service.listen();
      const listen = formatAddress(options.listen.host, service.port);
      directory.writePidFile(listen);
      await tenants.open();
      service.state = "ready";
      log.info({ listen, version, workdir: options.workdir }, "ready");
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get port(): number {
    return this.service.port;
  }

  /** Finishes requests under way, stops following computes, writes what must be written. Idempotent. */
  stop(): Promise<void> {
    this.stopping ??= this.stopAll();
    return this.stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  private async stopAll(): Promise<void> {
    this.log.info("stopping");
    try {
      await this.service.stop(STOP_GRACE_MS);
      await this.tenants[Symbol.asyncDispose]();
    } finally {
      this.directory[Symbol.dispose]();
    }
    this.log.info("stopped");
  }
}

/** From the package.json two levels above, which holds for `src/` and for `dist/`. */
export function packageVersion(): string {
  const path = join(import.meta.dirname, "..", "..", "package.json");
  const value: unknown = JSON.parse(readFileSync(path, "utf8"));
  if (typeof value !== "object" || value === null || !("version" in value)) return "unknown";
  return typeof value.version === "string" ? value.version : "unknown";
}

function formatAddress(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
