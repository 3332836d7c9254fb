module lab.invalid/app

go 1.24
