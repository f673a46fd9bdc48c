/** Commands that work with any pageserver: the repository's own, or the one that --pageserver names. */
import { string as stringFlag } from "@oclif/core/flags";
import type { TenantId } from "../../base/ids.ts";
import type { PageserverClient } from "../../client/pageserver-client.ts";
import type { Repository } from "../../repository/repository.ts";
import type { RemotePageserver } from "./remote-pageserver.ts";
import { BaseCommand, type CommonFlags } from "./base-command.ts";

export interface PageserverFlags extends CommonFlags {
  readonly pageserver?: string | undefined;
}

/** A pageserver, and the repository that it belongs to, if it was found through one. */
export interface Connection {
  readonly client: PageserverClient;
  readonly repository: Repository | undefined;
}

export abstract class PageserverCommand extends BaseCommand {
  static override baseFlags = {
    ...BaseCommand.baseFlags,
    pageserver: stringFlag({
      summary: "Another pageserver than the repository's: https://user@host:9898, or an origin.",
      helpGroup: "GLOBAL",
      helpValue: "URI|ORIGIN",
    }),
  };

  /**
   * Connects for work on a tenant: --tenant-id, else the repository's default. Of another pageserver it is the default of the
   * repository around us if it is there, else the only one.
   */
  protected async connect(flags: PageserverFlags): Promise<Connection> {
    if (flags.pageserver === undefined) {
      const repository = await this.findRepository(flags);
      return { repository, client: await this.pageserverOf(repository, flags) };
    }
    const { client } = await this.connectElsewhere(flags, flags.pageserver);
    return { client, repository: undefined };
  }

  /** The same for the pageserver that --pageserver names, with its URI. */
  protected async connectElsewhere(flags: PageserverFlags, pageserver: string): Promise<RemotePageserver> {
    const { chooseTenant } = await import("./remote-pageserver.ts");
    const { client: server, uri } = await this.remote(flags, pageserver);
    if (flags["tenant-id"] !== undefined) {
      const { parseTenantId } = await import("../../base/ids.ts");
      return { client: server.withTenant(parseTenantId(flags["tenant-id"])), uri };
    }
    return { client: await chooseTenant(server, await this.defaultTenant(flags)), uri };
  }

  /** Connects for work on the pageserver as a whole, or on a tenant that is named otherwise. */
  protected async connectToServer(flags: PageserverFlags): Promise<Connection> {
    if (flags.pageserver === undefined) {
      const repository = await this.findRepository(flags);
      return { repository, client: await this.pageserverOf(repository, {}) };
    }
    const { client } = await this.remote(flags, flags.pageserver);
    return { client, repository: undefined };
  }

  private async remote(flags: PageserverFlags, pageserver: string): Promise<RemotePageserver> {
    const { remotePageserver } = await import("./remote-pageserver.ts");
    return remotePageserver(
      pageserver,
      () => this.findRepository(flags),
      (text) => this.caution(text),
    );
  }

  private async defaultTenant(flags: PageserverFlags): Promise<TenantId | undefined> {
    const { ErrorCode, NeonError } = await import("../../base/errors.ts");
    try {
      return (await this.findRepository(flags)).config.defaultTenantId;
    } catch (error) {
      const none = error instanceof NeonError && error.code === ErrorCode.NotFound;
      if (none && flags.repo === undefined) return undefined;
      throw error;
    }
  }
}
