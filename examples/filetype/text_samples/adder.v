`timescale 1ns / 1ps

module adder #(parameter WIDTH = 8) (
    input  wire             clk,
    input  wire             reset_n,
    input  wire [WIDTH-1:0] a,
    input  wire [WIDTH-1:0] b,
    output reg  [WIDTH:0]   sum
);
    wire [WIDTH:0] next = {1'b0, a} + {1'b0, b};

    always @(posedge clk or negedge reset_n) begin
        if (!reset_n)
            sum <= {(WIDTH + 1){1'b0}};
        else
            sum <= next;
    end
endmodule
