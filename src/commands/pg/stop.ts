import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class PgStop extends BaseCommand {
  static override summary = "Stop a compute.";
  static override description =
    "Returns when the pageserver has everything, the shutdown checkpoint included. Stopping one that does not run is " +
    "fine. After --immediate nothing that was committed is missing, but the compute is rebuilt or recovered at its " +
    "next start.";
  static override examples = ["<%= config.bin %> pg stop dev", "<%= config.bin %> pg stop --all"];
  static override args = { name: stringArg({ description: "Name of the compute." }) };
  static override flags = {
    all: boolean({ default: false, summary: "Stop every compute." }),
    immediate: boolean({
      default: false,
      summary: "Do not wait for a clean end, nor for the pageserver: end Postgres at once.",
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PgStop);
    if ((args.name === undefined) === !flags.all) {
      throw new NeonError(ErrorCode.Usage, "neon pg stop wants a NAME or --all", {
        hint: "`neon pg list` shows the computes.",
      });
    }
    const repository = await this.findRepository(flags);
    const { computesOf } = await import("../shared/computes.ts");
    const { Progress } = await import("../shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const computes = computesOf(repository, await this.pageserverOf(repository, flags), progress);
    const chosen = args.name === undefined ? await computes.list() : [await computes.get(args.name)];
    const stopped: string[] = [];
    for (const { name, state } of chosen) {
      if (state === "stopped" && flags.all) continue;
      progress.begin(`stopping compute ${name}`);
      await computes.stop(name, { mode: flags.immediate ? "immediate" : "fast" });
      progress.end();
      this.print(state === "stopped" ? `Compute ${name} was not running` : `Stopped compute ${name}`);
      if (state !== "stopped") stopped.push(name);
    }
    if (flags.all && stopped.length === 0) this.say("No compute was running.");
    return { stopped };
  }
}
