import { resolve } from "node:path";
import { string as stringArg } from "@oclif/core/args";
import { string as stringFlag } from "@oclif/core/flags";
import { NeonError } from "../base/errors.ts";
import { formatLsn } from "../base/lsn.ts";
import type { RemoteTenant } from "../client/remote-pageserver.ts";
import type { TransferResult } from "../client/transfer.ts";
import type { Repository } from "../repository/repository.ts";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";
import { formatBytes } from "./shared/output.ts";
import { Progress } from "./shared/progress.ts";

/** One branch that has been cloned. */
interface Cloned {
  readonly branch: string;
  readonly result: TransferResult;
}

export default class Clone extends BaseCommand {
  static override summary = "Make a repository from another pageserver's branches.";
  static override description =
    "Makes DIR/.neon, starts a pageserver and pulls all branches of the other one, or those named with --branch, with " +
    "their whole history. URI as for `neon origin add`; it becomes the origin `origin`, and the upstream of the branches. " +
    "Where the other pageserver has several tenants, --tenant-id or a tenant id behind the port (HOST:PORT/ID) says which.\n\n" +
    "When it is interrupted after data has arrived, that is kept, and the message says how to go on. The exit code is 6 if " +
    "the other pageserver does not answer or refuses.\n\n" +
    "Side effects: writes DIR/.neon, starts the pageserver on free ports of 127.0.0.1.";
  static override examples = [
    "<%= config.bin %> clone postgresql://ada@db.example.com shop",
    "<%= config.bin %> clone postgresql://ada@db.example.com --branch main --branch dev",
    "<%= config.bin %> clone 'postgresql://ada@db.example.com?sslmode=verify-full&sslrootcert=db.crt' --name staging",
  ];
  static override args = {
    uri: stringArg({ description: "Where the other pageserver listens.", required: true }),
    dir: stringArg({ description: "Where; the current directory unless given. Created if missing." }),
  };
  static override flags = {
    branch: stringFlag({
      char: "b",
      summary: "A branch to get, all unless given. May be repeated.",
      helpValue: "BRANCH",
      multiple: true,
      multipleNonGreedy: true,
    }),
    name: stringFlag({
      summary: "Name of the origin.",
      helpValue: "NAME",
      default: "origin",
    }),
    "pg-bin": stringFlag({
      summary: "Directory with the Postgres programs to use, of the right version.",
      helpValue: "DIR",
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Clone);
    const { checkOriginName } = await import("../repository/origins.ts");
    const { checkUri } = await import("./shared/origins.ts");
    const { resolveUri } = await import("../client/libpq.ts");
    const { listRemote } = await import("../client/remote-pageserver.ts");
    const { chooseBranches, chooseTenant } = await import("./shared/clone-choice.ts");
    const { rootOf } = await import("../repository/repository.ts");
    const { checkRoot } = await import("../compute/create-repository.ts");
    const { createClone } = await import("../compute/clone-repository.ts");
    const { findBinaries } = await import("../compute/binaries.ts");
    checkOriginName(flags.name);
    const { stored, uri, notes } = checkUri(args.uri);
    const { target, warning } = resolveUri(stored);
    for (const note of [...notes, ...(warning === undefined ? [] : [`${warning}.`])]) this.caution(note);
    const root = rootOf(process.cwd(), args.dir ?? flags.repo ?? ".");
    const { signal } = this.interruption;
    await checkRoot(root);

    const progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin(`asking ${uri}`);
    const tenant = chooseTenant(
      await listRemote(target, { signal }),
      flags["tenant-id"] ?? target.database,
      uri,
    );
    const branches = chooseBranches(tenant, flags.branch, uri);
    const pgBin = flags["pg-bin"] === undefined ? undefined : resolve(flags["pg-bin"]);
    const binaries = await findBinaries({ major: tenant.pgVersion, pgBin });
    const made = await createClone({
      root,
      tenantId: tenant.tenantId,
      pgVersion: tenant.pgVersion,
      pgBin,
      origin: { name: flags.name, uri: stored },
      signal,
      onStep: (step) => progress.begin(step),
    });
    progress.end();
    const { repository } = made;
    const cloned = await this.pullAll(made, flags.name, tenant, branches, root);

    this.print(`Cloned ${uri} into ${repository.directory}`);
    const bytes = sum(cloned, (result) => result.bytesSent + result.bytesReceived);
    this.say(
      `${cloned.map(({ branch, result }) => `${branch} at ${lsnText(result) ?? "its end"}`).join(", ")}; ` +
        `${formatBytes(bytes)} transferred. Postgres ${binaries.version} (${binaries.source}), pageserver at ` +
        `http://${repository.config.pageserver.listen}.\n` +
        `A Postgres on it: neon pg create ${branches[0]}`,
    );
    return cloneJson(repository, flags.name, cloned);
  }

  /** Pulls the branches. A failure before anything has arrived leaves no repository. */
  private async pullAll(
    made: { repository: Repository; remove: () => Promise<void> },
    origin: string,
    tenant: RemoteTenant,
    branches: readonly string[],
    root: string,
  ): Promise<Cloned[]> {
    const { transfer, noteUpstream } = await import("./shared/transfers.ts");
    const { targetOf } = await import("./shared/origins.ts");
    const { repository } = made;
    const { tenantId } = tenant;
    const client = await this.pageserverOf(repository, { "tenant-id": tenantId });
    const target = targetOf(repository, origin, () => undefined);
    const cloned: Cloned[] = [];
    try {
      for (const branch of branches) {
        const partner = { origin, branch, isFirst: true };
        const result = await transfer({
          repository,
          kind: "pull",
          tenantId,
          branch,
          partner,
          target,
          dryRun: false,
          json: this.jsonEnabled(),
          signal: this.interruption.signal,
          onData: () => {
            this.afterInterruption = howToGoOn(root, origin, branches, cloned);
          },
        });
        cloned.push({ branch, result });
        this.afterInterruption = howToGoOn(root, origin, branches, cloned);
        await noteUpstream(repository, client, branch, partner, false);
      }
    } catch (error) {
      if (this.afterInterruption === undefined) {
        await made.remove();
        throw error;
      }
      throw error instanceof NeonError ? withHint(error, this.afterInterruption) : error;
    }
    this.afterInterruption = undefined;
    return cloned;
  }
}

/** What to do after a clone that was cut off when a part of it had arrived. */
function howToGoOn(
  root: string,
  origin: string,
  branches: readonly string[],
  cloned: readonly Cloned[],
): string {
  const missing = branches.filter((name) => !cloned.some(({ branch }) => branch === name));
  const commands = missing.slice(0, 5).map((name) => `neon pull ${name} ${origin}`);
  const more = missing.length > 5 ? ` (and ${missing.length - 5} more)` : "";
  return `What has arrived is kept in ${root}/.neon. To go on: cd ${root} && ${commands.join(" && ")}${more}`;
}

function withHint(error: NeonError, hint: string): NeonError {
  return new NeonError(error.code, error.message, {
    hint: error.hint === undefined ? hint : `${error.hint} ${hint}`,
    data: error.data,
    cause: error,
  });
}

function sum(cloned: readonly Cloned[], bytesOf: (result: TransferResult) => number): number {
  return cloned.reduce((total, { result }) => total + bytesOf(result), 0);
}

function cloneJson(repository: Repository, origin: string, cloned: readonly Cloned[]): JsonFields {
  const { defaultTenantId, pgVersion, pageserver } = repository.config;
  return {
    result: "created",
    bytes_sent: sum(cloned, (result) => result.bytesSent),
    bytes_received: sum(cloned, (result) => result.bytesReceived),
    from_lsn: null,
    to_lsn: cloned[0] === undefined ? null : lsnText(cloned[0].result),
    repository: repository.directory,
    tenant_id: defaultTenantId,
    pg_version: pgVersion,
    origin,
    pageserver: `http://${pageserver.listen}`,
    branches: cloned.map(({ branch, result }) => ({
      name: branch,
      last_record_lsn: lsnText(result),
    })),
  };
}

function lsnText({ toLsn }: TransferResult): string | null {
  return toLsn === undefined ? null : formatLsn(toLsn);
}
