#include <algorithm>
#include <iostream>
#include <memory>
#include <numeric>
#include <vector>

namespace linear {

template <typename T>
class Matrix {
 public:
  Matrix(std::size_t rows, std::size_t columns) : rows_(rows), columns_(columns), cells_(rows * columns) {}

  T& operator()(std::size_t row, std::size_t column) { return cells_[row * columns_ + column]; }
  const T& operator()(std::size_t row, std::size_t column) const { return cells_.at(row * columns_ + column); }

  T trace() const {
    T sum{};
    for (std::size_t i = 0; i < std::min(rows_, columns_); ++i) sum += (*this)(i, i);
    return sum;
  }

 private:
  std::size_t rows_, columns_;
  std::vector<T> cells_;
};

}  // namespace linear

int main() {
  auto matrix = std::make_unique<linear::Matrix<double>>(3, 3);
  for (auto i : {0, 1, 2}) (*matrix)(i, i) = 1.5 * i;
  std::cout << "trace: " << matrix->trace() << std::endl;
  return 0;
}
