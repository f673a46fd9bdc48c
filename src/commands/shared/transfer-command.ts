/** The command behind `push` and `pull`: they differ in the direction and in which side must have the branch. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { BranchInfo, PageserverClient } from "../../client/pageserver-client.ts";
import type { TransferKind } from "../../client/transfer.ts";
import { BaseCommand, type CommonFlags, type JsonFields } from "./base-command.ts";

export interface TransferArguments {
  readonly branch: string;
  readonly origin: string | undefined;
  readonly dryRun: boolean;
  readonly setUpstream: boolean;
}

export abstract class TransferCommand extends BaseCommand {
  protected async transfer(
    kind: TransferKind,
    flags: CommonFlags,
    { branch, origin, dryRun, setUpstream }: TransferArguments,
  ): Promise<JsonFields> {
    const { checkRefName } = await import("../../repository/ref-name.ts");
    checkRefName(branch);
    const repository = await this.findRepository(flags);
    const { partnerOf, transfer, noteUpstream, describeTransfer, describeResult, resultJson } =
      await import("./transfers.ts");
    const { targetOf } = await import("./origins.ts");
    const client = await this.pageserverOf(repository, flags);
    const found = await this.localBranch(client, kind, branch);
    const partner = partnerOf(repository, kind, branch, found?.timelineId, origin);
    const target = targetOf(repository, partner.origin, (text) => this.caution(text));
    this.afterInterruption =
      "Nothing was published. Run the same command again: it goes on where this one stopped.";
    const result = await transfer({
      repository,
      kind,
      tenantId: client.tenantId,
      branch,
      partner,
      target,
      dryRun,
      json: this.jsonEnabled(),
      signal: this.interruption.signal,
    });
    this.afterInterruption = undefined;
    this.print(`${describeTransfer(kind, branch, partner)}  ${describeResult(result, dryRun)}`);
    const isUpstream = !dryRun && (await noteUpstream(repository, client, branch, partner, setUpstream));
    if (isUpstream) this.say(`The upstream of ${branch} is ${partner.origin}:${partner.branch}.`);
    return {
      ...resultJson(result),
      branch,
      origin: partner.origin,
      other: partner.branch,
      dry_run: dryRun,
    };
  }

  /** The branch here. It must be there for a push; a pull may create it. */
  private async localBranch(
    client: PageserverClient,
    kind: TransferKind,
    name: string,
  ): Promise<BranchInfo | undefined> {
    let branches: readonly BranchInfo[];
    try {
      branches = await client.listBranches();
    } catch (error) {
      // A tenant that is not here yet is made by its first pull.
      if (kind === "pull" && error instanceof NeonError && error.code === ErrorCode.NotFound)
        return undefined;
      throw error;
    }
    const found = branches.find((branch) => branch.name === name);
    if (found || kind === "pull") return found;
    const { branchNotFound } = await import("./moment.ts");
    throw branchNotFound(name, branches);
  }
}
