import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

/** How long to wait for the names that branches have now, in milliseconds. */
const NAMES_TIMEOUT_MS = 2000;

export default class PgList extends BaseCommand {
  static override summary = "List the computes of this repository.";
  static override description =
    "LSN is where the compute's data directory started. Works without the pageserver.";
  static override examples = ["<%= config.bin %> pg list", "<%= config.bin %> pg list --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(PgList);
    const repository = await this.findRepository(flags);
    const { computesOf, computeJson, computeTable, listComputes } = await import("../shared/computes.ts");
    const client = await this.pageserverOf(repository, flags, { timeoutMs: NAMES_TIMEOUT_MS });
    const computes = await listComputes(computesOf(repository, client), client);
    if (computes.length === 0) this.say("There is no compute. Create one: neon pg create main");
    else this.print(computeTable(computes));
    return { computes: computes.map(computeJson) };
  }
}
