workflow StartAll
{
    param ([string] $Tag = "env")
    foreach -parallel ($vm in Get-AzVM) { Start-AzVM -Id $vm.Id }
}
