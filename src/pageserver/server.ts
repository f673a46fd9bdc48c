/**
 * Composition root of the pageserver: takes the working directory, listens, opens the tenants, serves, and stops in
 * the reverse order.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "pino";
import type { Clock, Files, Random } from "../base/seams.ts";
import type { ServerTls } from "../pgwire/server-startup.ts";
import type { PageserverOptions } from "./options.ts";
import { type ShownSettings, serverTenantSettings, shownSettings } from "./server-settings.ts";
import type { TenantSettings } from "./timeline/tenant-settings.ts";
import { Background } from "./compaction/background.ts";
import { Authentication } from "./service/authentication.ts";
import { GrpcService } from "./service/grpc/grpc-service.ts";
import { HttpService } from "./service/http-service.ts";
import { JwtKeys } from "./service/jwt-keys.ts";
import { PageCache } from "./read/page-cache.ts";
import { PageReaders } from "./read/timeline-pages.ts";
import { adminCommands } from "./service/libpq/admin-commands.ts";
import { backupCommands } from "./service/libpq/backup-commands.ts";
import { generalCommands } from "./service/libpq/commands.ts";
import type { LibpqCommand } from "./service/libpq/command.ts";
import { LibpqService, type LibpqServiceDependencies } from "./service/libpq/libpq-service.ts";
import { importCommands } from "./service/libpq/import-commands.ts";
import { maintenanceCommands } from "./service/libpq/maintenance-commands.ts";
import { ReplicationService } from "./service/libpq/replication-service.ts";
import { pagestreamCommands } from "./service/libpq/pagestream.ts";
import { transferCommands } from "./service/libpq/transfer-commands.ts";
import { Metrics } from "./service/metrics.ts";
import { ServerCertificate } from "./service/server-certificate.ts";
import { type MeasuredCache, addServerMetrics } from "./service/server-metrics.ts";
import { Users } from "./service/users.ts";
import { buildRoutes } from "./service/routes.ts";
import type { ServedTimeline, TimelineFactory } from "./timeline/served-timeline.ts";
import { Tenants } from "./timeline/tenants.ts";
import { connectOrigin } from "./transfer/connect.ts";
import { TransferService } from "./transfer/service.ts";
import { WorkDirectory } from "./work-directory.ts";

/** How long requests under way may take to finish when the server is stopped. */
const STOP_GRACE_MS = 5000;

export interface PageserverDependencies<T extends ServedTimeline> {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly timelines: TimelineFactory<T>;
  /** For pages that clients fetch one by one; one of its own unless given. */
  readonly pages?: PageCache;
  /** Other caches, by name, to be measured. */
  readonly caches?: Readonly<Record<string, MeasuredCache>>;
  /** Where compaction runs; it is ended with the server. */
  readonly compaction?: AsyncDisposable;
}

export const systemClock: Clock = { now: () => Date.now() };
export const systemRandom: Random = { bytes: (count) => new Uint8Array(randomBytes(count)) };

export class Pageserver implements AsyncDisposable {
  private readonly service: HttpService;
  private readonly libpq: LibpqService | undefined;
  private readonly grpc: GrpcService | undefined;
  private readonly tenants: AsyncDisposable;
  private readonly directory: WorkDirectory;
  private readonly log: Logger;
  private stopping: Promise<void> | undefined;

  private constructor(
    services: { service: HttpService; libpq: LibpqService | undefined; grpc: GrpcService | undefined },
    tenants: AsyncDisposable,
    directory: WorkDirectory,
    log: Logger,
  ) {
    this.service = services.service;
    this.libpq = services.libpq;
    this.grpc = services.grpc;
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
    try {
      const tenantsDirectory = join(options.workdir, "tenants");
      const settings = serverTenantSettings(options);
      const tenants = new Tenants(tenantsDirectory, { ...dependencies, settings });
      const show = (shown: TenantSettings): ShownSettings => shownSettings(options, shown);
      const version = packageVersion();
      const about = {
        id: options.id,
        pid: process.pid,
        version,
        started_at: new Date(clock.now()).toISOString(),
        repository: options.workdir,
      };
      const metrics = new Metrics();
      const users = new Users(join(options.workdir, "users.json"), dependencies);
      const certificate = options.tls && ServerCertificate.load(options.tls);
      const tls = (): ServerTls | undefined => certificate?.current();
      const keys =
        options.jwtPublicKey === undefined
          ? undefined
          : JwtKeys.open(options.jwtPublicKey, (problem) => log.error(problem));
      const authentication = new Authentication(
        { token: options.authToken },
        { ...dependencies, users, keys },
      );
      const pages = pageCache(options, dependencies);
      const readers = new PageReaders(pages);
      const service = new HttpService(
        { ...options.listen, insecure: options.insecure },
        {
          router: buildRoutes({
            tenants,
            users,
            keys,
            readers,
            metrics,
            show,
            version,
            workdir: options.workdir,
            nodeId: options.id,
          }),
          authentication,
          tls,
          log,
          status: () => about,
          metrics,
        },
      );
      const grpc =
        options.listenGrpc &&
        new GrpcService(
          { ...options.listenGrpc, insecure: options.insecure, pageRateLimit: options.pageRateLimit },
          { tenants, readers, metrics, log, authentication, tls, now: () => clock.now() },
        );
      const replication = new ReplicationService(tenants, { clock });
      const libpq = await libpqService(
        options,
        { ...dependencies, metrics, tls, replication, authentication },
        users,
        [
          ...generalCommands({
            tenants,
            version,
            status: () => ({
              state: service.state,
              ...about,
              listen: formatAddress(options.listen.host, service.port),
            }),
          }),
          ...adminCommands({ tenants, settings: show(settings), show }),
          ...backupCommands(tenants),
          ...importCommands(tenants),
          ...maintenanceCommands(tenants),
          ...pagestreamCommands({
            tenants,
            readers,
            metrics,
          }),
          ...transferCommands(
            new TransferService({ ...dependencies, tenants, tenantsDirectory, connect: connectOrigin }),
          ),
        ],
      );
      addServerMetrics(metrics, {
        tenants,
        version,
        startedAt: clock.now(),
        libpqConnections: () => libpq?.connectionCount ?? 0,
        httpConnections: () => service.connectionCount,
        caches: { pages, ...dependencies.caches },
      });
      const background = new Background({ tenants, log });
      const owned = ownedBy(tenants, background, dependencies.compaction);
      const server = new Pageserver({ service, libpq, grpc }, owned, directory, log);
      await users.open();
      await server.open(options, () => tenants.open(), version);
      background.start();
      return server;
    } catch (error) {
      // After the server's own stop there is nothing left to give back.
      directory[Symbol.dispose]();
      throw error;
    }
  }

  private async open(
    options: PageserverOptions,
    openTenants: () => Promise<void>,
    version: string,
  ): Promise<void> {
    try {
      await this.service.listen();
      await this.libpq?.listen();
      await this.grpc?.listen();
      const listen = formatAddress(options.listen.host, this.service.port);
      const { libpqPort, grpcPort } = this;
      const listenLibpq =
        libpqPort === undefined ? undefined : formatAddress(options.listenLibpq?.host ?? "", libpqPort);
      const listenGrpc =
        grpcPort === undefined ? undefined : formatAddress(options.listenGrpc?.host ?? "", grpcPort);
      this.directory.writePidFile(listen, listenLibpq, listenGrpc);
      await openTenants();
      this.service.state = "ready";
      if (this.libpq) this.libpq.ready = true;
      this.grpc?.ready();
      this.log.info({ listen, listenLibpq, listenGrpc, version, workdir: options.workdir }, "ready");
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  /** Port of the libpq service, if there is one. */
  get libpqPort(): number | undefined {
    return this.libpq?.port;
  }

  /** Port of the gRPC service, if there is one. */
  get grpcPort(): number | undefined {
    return this.grpc?.port;
  }

  get port(): number {
    return this.service.port;
  }

  /** The routes of the HTTP API. */
  get routes(): HttpService["routes"] {
    return this.service.routes;
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
      await Promise.all([
        this.service.stop(STOP_GRACE_MS),
        this.libpq?.stop(STOP_GRACE_MS),
        this.grpc?.stop(STOP_GRACE_MS),
      ]);
      await this.tenants[Symbol.asyncDispose]();
    } finally {
      this.directory[Symbol.dispose]();
    }
    this.log.info("stopped");
  }
}

function pageCache(options: PageserverOptions, { pages }: { readonly pages?: PageCache }): PageCache {
  return pages ?? new PageCache({ capacityBytes: options.cacheBytes });
}

/** Ends compaction first, in the middle of what it does, then waits for what started it, then closes the tenants. */
function ownedBy(...[tenants, background, compaction]: [AsyncDisposable, AsyncDisposable, AsyncDisposable?]) {
  const stack = new AsyncDisposableStack();
  stack.use(tenants);
  stack.use(background);
  if (compaction) stack.use(compaction);
  return stack;
}

/** The libpq service, where there is an address for it. */
async function libpqService(
  options: PageserverOptions,
  dependencies: Pick<
    LibpqServiceDependencies,
    "random" | "log" | "metrics" | "tls" | "replication" | "authentication"
  >,
  users: Users,
  commands: readonly LibpqCommand[],
): Promise<LibpqService | undefined> {
  if (!options.listenLibpq) return undefined;
  return LibpqService.create(
    { ...options.listenLibpq, token: options.authToken, insecure: options.insecure },
    { ...dependencies, commands, findUser: (name) => users.find(name) },
  );
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
