"use strict";
const fs = require("fs");

class Inventory {
  constructor(items = []) {
    this.items = new Map(items.map((item) => [item.sku, item]));
  }

  add(item) {
    const known = this.items.get(item.sku);
    this.items.set(item.sku, known ? { ...known, count: known.count + item.count } : item);
    return this;
  }

  get total() {
    return [...this.items.values()].reduce((sum, { count, price }) => sum + count * price, 0);
  }
}

const load = async (path) => new Inventory(JSON.parse(await fs.promises.readFile(path, "utf8")));

module.exports = { Inventory, load };
if (require.main === module) {
  load(process.argv[2]).then((inventory) => console.log(`total: ${inventory.total.toFixed(2)}`));
}
