// The accelerator under the short port names that sim/driver.cc plays on, and its external memory.
//
// MEMORY_BITS: width of the accelerator's master port; undefined where it has none.
// The reset is registered, as on a board: straight from a port it would reach every next-state
// function in the same cycle, which costs a simulator a fifth of its speed.

`ifndef MEMORY_BYTES
`define MEMORY_BYTES (1 << 26)
`endif

module testbench (
  input wire clk, input wire rst, output wire finished,
  input wire [31:0] awaddr, input wire [31:0] wdata, input wire awvalid, output wire awready,
  output wire [1:0] bresp, output wire bvalid,
  input wire [31:0] araddr, input wire arvalid, output wire arready,
  output wire [31:0] rdata, output wire [1:0] rresp, output wire rvalid
);
  reg reset = 1;
  always @(posedge clk) reset <= rst;

`ifdef MEMORY_BITS
  wire m_arid, m_arvalid, m_arready, m_rid, m_rlast, m_rvalid, m_rready;
  wire m_awid, m_awvalid, m_awready, m_wlast, m_wvalid, m_wready, m_bid, m_bvalid, m_bready;
  wire [31:0] m_araddr, m_awaddr;
  wire [7:0] m_arlen, m_awlen;
  wire [2:0] m_arsize, m_awsize;
  wire [1:0] m_arburst, m_awburst, m_rresp, m_bresp;
  wire [`MEMORY_BITS-1:0] m_rdata, m_wdata;
  wire [`MEMORY_BITS/8-1:0] m_wstrb;
`endif

  // awready and wready rise together: the slave takes address and data at once.
  accelerator dut (
    .clk(clk), .rst(reset), .interrupt(finished),
    .bus__awaddr(awaddr), .bus__awvalid(awvalid), .bus__awready(awready),
    .bus__wdata(wdata), .bus__wstrb(4'hF), .bus__wvalid(awvalid), .bus__wready(),
    .bus__bresp(bresp), .bus__bvalid(bvalid), .bus__bready(1'b1),
    .bus__araddr(araddr), .bus__arvalid(arvalid), .bus__arready(arready),
    .bus__rdata(rdata), .bus__rresp(rresp), .bus__rvalid(rvalid), .bus__rready(1'b1)
`ifdef MEMORY_BITS
    , .memory__arid(m_arid), .memory__araddr(m_araddr), .memory__arlen(m_arlen),
    .memory__arsize(m_arsize), .memory__arburst(m_arburst), .memory__arvalid(m_arvalid),
    .memory__arready(m_arready), .memory__rid(m_rid), .memory__rdata(m_rdata),
    .memory__rresp(m_rresp), .memory__rlast(m_rlast), .memory__rvalid(m_rvalid),
    .memory__rready(m_rready), .memory__awid(m_awid), .memory__awaddr(m_awaddr),
    .memory__awlen(m_awlen), .memory__awsize(m_awsize), .memory__awburst(m_awburst),
    .memory__awvalid(m_awvalid), .memory__awready(m_awready), .memory__wdata(m_wdata),
    .memory__wstrb(m_wstrb), .memory__wlast(m_wlast), .memory__wvalid(m_wvalid),
    .memory__wready(m_wready), .memory__bid(m_bid), .memory__bresp(m_bresp),
    .memory__bvalid(m_bvalid), .memory__bready(m_bready)
`endif
  );

`ifdef MEMORY_BITS
  axi_memory #(.BUS_BITS(`MEMORY_BITS), .BYTES(`MEMORY_BYTES)) memory (
    .clk(clk), .rst(reset),
    .arid(m_arid), .araddr(m_araddr), .arlen(m_arlen), .arsize(m_arsize), .arburst(m_arburst),
    .arvalid(m_arvalid), .arready(m_arready), .rid(m_rid), .rdata(m_rdata), .rresp(m_rresp),
    .rlast(m_rlast), .rvalid(m_rvalid), .rready(m_rready), .awid(m_awid), .awaddr(m_awaddr),
    .awlen(m_awlen), .awsize(m_awsize), .awburst(m_awburst), .awvalid(m_awvalid),
    .awready(m_awready), .wdata(m_wdata), .wstrb(m_wstrb), .wlast(m_wlast), .wvalid(m_wvalid),
    .wready(m_wready), .bid(m_bid), .bresp(m_bresp), .bvalid(m_bvalid), .bready(m_bready),
    .n_read_beats(), .n_write_beats()
  );

  export "DPI-C" task memory_poke;
  task memory_poke(input int address, input int data);
    memory.poke(address, data);
  endtask

  export "DPI-C" function memory_peek;
  function int memory_peek(input int address);
    memory_peek = memory.peek(address);
  endfunction
`endif
endmodule
