import { NeonError, ErrorCode } from "../base/errors.ts";
import type { Repository } from "../repository/repository.ts";
import { BaseCommand, type CommonFlags, type JsonFields } from "./shared/base-command.ts";
import type { CheckResult } from "./shared/doctor-checks.ts";
import { type Style, formatTable, paint } from "./shared/output.ts";

const DEFAULT_PG_VERSION = 17;
const STYLES: Readonly<Record<CheckResult["state"], Style>> = {
  ok: "green",
  warning: "yellow",
  failed: "red",
};

export default class Doctor extends BaseCommand {
  static override summary = "Find out what is wrong with this machine or repository.";
  static override description =
    "Looks at Node.js, Postgres, users, ports, disk, and, in a repository, at everything that should run. Changes " +
    "nothing. The exit code is 1 when a check has failed; warnings do not count.";
  static override examples = ["<%= config.bin %> doctor", "<%= config.bin %> doctor --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Doctor);
    const { checkMachine, checkRepository } = await import("./shared/doctor-checks.ts");
    const { computesOf } = await import("./shared/computes.ts");
    const repository = await this.repositoryIfAny(flags);
    const results = await checkMachine(
      repository?.config.pgVersion ?? DEFAULT_PG_VERSION,
      repository?.config ?? {},
    );
    if (repository) {
      const client = await this.pageserverOf(repository, flags);
      const computes = computesOf(repository, client, undefined, { allTenants: true });
      results.push(...(await checkRepository(repository, client, computes)));
    }
    const rows = results.map((result) => [result.state, result.name, result.message]);
    const table = formatTable(["STATE", "CHECK", "RESULT"], rows).split("\n");
    this.print(table[0] ?? "");
    results.forEach((result, index) => {
      const line = (table[index + 1] ?? "").replace(result.state, paint(STYLES[result.state], result.state));
      this.print(line);
      if (result.hint !== undefined) this.print(`         ${paint("dim", `-> ${result.hint}`)}`);
    });
    if (!repository) this.say("No repository here, so only the machine was looked at.");
    const failed = results.filter((result) => result.state === "failed").length;
    if (failed > 0) process.exitCode = 1;
    return {
      healthy: failed === 0,
      checks: results.map((result) => ({ ...result, hint: result.hint ?? null })),
    };
  }

  private async repositoryIfAny(flags: CommonFlags): Promise<Repository | undefined> {
    try {
      return await this.findRepository(flags);
    } catch (error) {
      const missing = error instanceof NeonError && error.code === ErrorCode.NotFound;
      if (missing && flags.repo === undefined) return undefined;
      throw error;
    }
  }
}
