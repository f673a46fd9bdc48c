/**
 * All tenants of a pageserver: the directories in `tenants/`. They share nothing but the process. A tenant that is being
 * deleted has its directory renamed first, so that a crash leaves it whole or gone; the next start removes the rest.
 */
import { dirname, join } from "node:path";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { type TenantId, isId, newTenantId, parseTenantId } from "../../base/ids.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { STAGING_DIRECTORY } from "../transfer/staging-directory.ts";
import { SerialQueue } from "./serial-queue.ts";
import type { ServedTimeline } from "./served-timeline.ts";
import { Tenant, type TenantDependencies } from "./tenant.ts";

/** Ends the name of a directory that was a tenant's. */
const DELETED = ".deleted";

export type TenantEntry<T extends ServedTimeline> =
  | { readonly kind: "open"; readonly tenant: Tenant<T> }
  | { readonly kind: "broken"; readonly id: TenantId; readonly error: NeonError };

export class Tenants<T extends ServedTimeline> implements AsyncDisposable {
  private readonly directory: string;
  private readonly dependencies: TenantDependencies<T>;
  private readonly byId = new Map<TenantId, TenantEntry<T>>();
  private readonly changes = new SerialQueue();

  /** `directory` is the one that holds a directory per tenant. */
  constructor(directory: string, dependencies: TenantDependencies<T>) {
    this.directory = directory;
    this.dependencies = dependencies;
  }

  /** Opens all tenants. One that cannot be opened is kept as broken; the others are served. */
  async open(): Promise<void> {
    const { files, log } = this.dependencies;
    await files.makeDirectory(this.directory);
    await files.syncDirectory(dirname(this.directory));
    // What is removed because of its name must not come back under another one after a loss of power.
    await files.syncDirectory(this.directory);
    for (const name of await files.list(this.directory)) {
      if (name.endsWith(DELETED) && isId(name.slice(0, -DELETED.length))) {
        await files.removeTree(join(this.directory, name));
        log.info({ path: join(this.directory, name) }, "removed the rest of a deleted tenant");
        continue;
      }
      if (!isId(name)) {
        log.warn({ path: join(this.directory, name) }, "this is no tenant; left alone");
        continue;
      }
      const id = parseTenantId(name);
      const directory = join(this.directory, name);
      try {
        const tenant = await Tenant.open({ directory, id }, this.dependencies);
        if (tenant) this.byId.set(id, { kind: "open", tenant });
        else await this.removeIncomplete(directory);
      } catch (error) {
        const reason =
          error instanceof NeonError
            ? error
            : new NeonError(ErrorCode.Failed, `open tenant ${id}: ${messageOf(error)}`, { cause: error });
        log.error({ err: reason, tenant: id }, "a tenant cannot be opened");
        this.byId.set(id, { kind: "broken", id, error: reason });
      }
    }
  }

  /** Sorted by id. */
  list(): TenantEntry<T>[] {
    return [...this.byId].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, entry]) => entry);
  }

  /** Throws `not_found`, or what keeps the tenant from being opened. */
  get(id: TenantId): Tenant<T> {
    const entry = this.entry(id);
    if (entry.kind === "broken") throw entry.error;
    return entry.tenant;
  }

  /** Throws `exists`. Durable when it returns. */
  async create(options: { id: TenantId | undefined; pgVersion: PgVersion }): Promise<Tenant<T>> {
    return this.changes.run(async () => {
      const id = options.id ?? newTenantId(this.dependencies.random);
      if (this.byId.has(id)) throw new NeonError(ErrorCode.Exists, `tenant ${id} exists already`);
      const directory = join(this.directory, id);
      const { files } = this.dependencies;
      try {
        const tenant = await Tenant.create(
          { directory, id, pgVersion: options.pgVersion },
          this.dependencies,
        );
        await files.syncDirectory(this.directory);
        this.byId.set(id, { kind: "open", tenant });
        return tenant;
      } catch (error) {
        await files.removeTree(directory);
        throw error;
      }
    });
  }

  /**
   * Deletes a tenant with all its data; a broken one, too. Throws `not_found`, `conflict` while a compute writes to one of
   * its branches.
   */
  async delete(id: TenantId): Promise<void> {
    const { files } = this.dependencies;
    await this.changes.run(async () => {
      const entry = this.entry(id);
      if (entry.kind === "open") checkNobodyWrites(entry.tenant);
      // From here on nobody finds it any more.
      this.byId.delete(id);
      if (entry.kind === "open") await entry.tenant[Symbol.asyncDispose]();
      const path = join(this.directory, id);
      await files.rename(path, path + DELETED);
      await files.syncDirectory(this.directory);
      await files.removeTree(path + DELETED);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.changes.run(async () => {
      for (const [id, entry] of this.byId) {
        if (entry.kind === "open") await entry.tenant[Symbol.asyncDispose]();
        this.byId.delete(id);
      }
    });
  }

  private entry(id: TenantId): TenantEntry<T> {
    const entry = this.byId.get(id);
    if (entry) return entry;
    throw new NeonError(ErrorCode.NotFound, `there is no tenant ${id} on this pageserver`, {
      hint: "`neon tenant list` shows those that exist.",
    });
  }

  /** Its creation was interrupted, so nobody was told of it; but what holds a timeline or a ref is not ours to judge. */
  private async removeIncomplete(directory: string): Promise<void> {
    const { files, log } = this.dependencies;
    for (const part of ["refs", "timelines"]) {
      const held = await files.list(join(directory, part)).catch(() => []);
      if (held.length === 0) continue;
      throw new NeonError(ErrorCode.Corrupt, `${directory} has no tenant.json but holds ${part}`, {
        hint: "Restore tenant.json, or move the directory away.",
      });
    }
    // The beginning of a push that may go on.
    const staged = await files.list(join(directory, STAGING_DIRECTORY)).catch(() => []);
    if (staged.length > 0) return;
    await files.removeTree(directory);
    log.info({ path: directory }, "removed a tenant whose creation was interrupted");
  }
}

function checkNobodyWrites<T extends ServedTimeline>(tenant: Tenant<T>): void {
  if (tenant.importing) {
    throw new NeonError(ErrorCode.Conflict, `a database is being imported into tenant ${tenant.id}`, {
      hint: "Try again when that is over.",
    });
  }
  for (const { ref, entry } of tenant.branches()) {
    const writer = entry.kind === "open" ? entry.timeline.writer : undefined;
    if (!writer) continue;
    throw new NeonError(
      ErrorCode.Conflict,
      `branch "${ref.name}" of tenant ${tenant.id} is in use by compute "${writer.name}"`,
      { hint: `Remove it first: neon pg destroy ${writer.name}`, data: { writer: writer.name } },
    );
  }
}
