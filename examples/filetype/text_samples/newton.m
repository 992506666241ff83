function [root, steps] = newton(f, df, start, tolerance)
% NEWTON  A root of f near start.
if nargin < 4
    tolerance = 1e-10;
end
root = start;
for steps = 1:100
    change = f(root) / df(root);
    root = root - change;
    if abs(change) < tolerance
        break
    end
end
x = linspace(-2, 2, 200);
y = arrayfun(f, x);
figure;
plot(x, y, 'b-', root, 0, 'ro');
title(sprintf('root = %.6f after %d steps', root, steps));
end
