program heat
  implicit none
  integer, parameter :: n = 64
  real(8) :: u(n), v(n)
  integer :: i, step

  u = 0.0d0
  u(n / 2) = 1.0d0
  do step = 1, 100
    do i = 2, n - 1
      v(i) = u(i) + 0.25d0 * (u(i - 1) - 2.0d0 * u(i) + u(i + 1))
    end do
    u(2:n - 1) = v(2:n - 1)
  end do
  write (*, '(f10.6)') maxval(u)
contains
  subroutine report(values)
    real(8), intent(in) :: values(:)
    print *, sum(values) / size(values)
  end subroutine report
end program heat
